//! Gives memory back to the kernel after many connections have gone: the allocator keeps what they used, in pieces
//! between what is still in use, until it is asked. The one file of this module with `unsafe`.
#![expect(unsafe_code, reason = "the C library's malloc_trim has no safe wrapper")]

use std::time::Duration;

/// How often the number of connections is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long nothing is looked at after that: it stops its thread for a moment, and what is given back is soon taken again
/// where connections come in waves.
const REST: Duration = Duration::from_secs(10);
/// So many fewer than there were (some megabytes) are worth the milliseconds that it takes.
const FEWER: usize = 256;

/// Runs until the process ends. `open` tells how many connections there are, `most_open` how many there were at once since
/// it was last asked: a crowd may come and go between two looks.
pub async fn give_back(open: impl Fn() -> usize + Send, most_open: impl Fn() -> usize + Send) {
    let mut most = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        most = most.max(most_open());
        let now = open();
        if now + FEWER <= most {
            trim();
            most = now;
            tokio::time::sleep(REST).await;
        }
    }
}

#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: malloc_trim(3) may be called at any time by any thread, and takes a number alone.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Other C libraries give back by themselves, or have no such call.
#[cfg(not(target_env = "gnu"))]
fn trim() {}
