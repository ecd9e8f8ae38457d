//! Listeners, original destinations, our own addresses.
