//! The terminal stays with the job: a command that made itself its foreground (a shell) may leave it to nobody.

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{getpgrp, tcgetpgrp, tcsetpgrp};
use std::fs::File;

/// The terminal that we were the foreground job of at the start.
pub(super) struct Terminal {
    ours: Option<File>,
}

impl Terminal {
    pub(super) fn remember() -> Self {
        // Whatever the standard streams are.
        let terminal = File::open("/dev/tty").ok();
        Self { ours: terminal.filter(|file| tcgetpgrp(file).is_ok_and(|group| group == getpgrp())) }
    }

    pub(super) fn is_ours(&self) -> bool {
        self.ours.is_some()
    }

    /// The account is written next, and the shell that started us looks at the terminal.
    pub(super) fn take_back(&self) {
        let Some(terminal) = &self.ours else { return };
        // As a background job we would be stopped for it.
        let mut quiet = SigSet::empty();
        quiet.add(Signal::SIGTTOU);
        if quiet.thread_block().is_ok() {
            let _ = tcsetpgrp(terminal, getpgrp());
        }
    }
}
