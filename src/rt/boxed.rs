//! A future made in the memory that it will live in.

use std::future::Future;
use std::pin::Pin;

/// As `Box::pin(make())`, which makes the future on the stack first and then copies all of it, also the kilobytes that
/// are only places for later. Here the compiler writes what the future begins with and nothing else.
pub fn boxed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(Box::write(Box::new_uninit(), make()))
}
