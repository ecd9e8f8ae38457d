//! System calls that no namespace covers and that lead out, refused for the command and all that it starts (seccomp(2)).
//!
//! Few and by name, so that nothing else breaks: this is no sandbox of its own. Processes of another architecture than
//! ours (32-bit ones) are ended, since the same calls have other numbers there.

use anyhow::Context;
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};
use std::collections::BTreeMap;

/// Families that network namespaces divide, or that reach no network. All others are refused: AF_VSOCK reaches the host
/// of a virtual machine from any network namespace, AF_BLUETOOTH its radio.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Type into the terminal as if the user had, so that his shell runs it later (ioctl_tty(2), `TIOCLINUX` on consoles).
const TYPING: [u64; 2] = [libc::TIOCSTI, 0x541c];

/// The user's keyrings, which hold tickets and keys (keyrings(7)); and calls that would go round this filter.
const ALWAYS: [libc::c_long; 4] =
    [libc::SYS_keyctl, libc::SYS_add_key, libc::SYS_request_key, libc::SYS_io_uring_setup];

/// For this process, which must have no rights any more, and its children.
pub(super) fn seal() -> anyhow::Result<()> {
    let filter = filter().context("the filter of system calls cannot be made")?;
    apply_filter(&filter).context("the filter of system calls cannot be loaded")
}

fn filter() -> anyhow::Result<BpfProgram> {
    // Only the lower half of the arguments counts for the kernel, so only it is compared.
    let condition = |index, operator, value: u64| SeccompCondition::new(index, Dword, operator, value);
    let foreign = FAMILIES
        .iter()
        .map(|family| condition(0, SeccompCmpOp::Ne, u64::try_from(*family)?).map_err(anyhow::Error::from))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let typing = TYPING
        .iter()
        .map(|request| Ok(SeccompRule::new(vec![condition(1, SeccompCmpOp::Eq, *request)?])?))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALWAYS.iter().map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(foreign)?]);
    rules.insert(libc::SYS_ioctl, typing);
    let refuse = SeccompAction::Errno(u32::try_from(libc::EPERM)?);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, std::env::consts::ARCH.try_into()?)?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_filter_is_one_that_the_kernel_could_take() {
        let program = super::filter().unwrap();
        assert!((10..200).contains(&program.len()), "{}", program.len());
    }
}
