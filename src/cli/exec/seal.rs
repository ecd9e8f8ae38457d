//! System calls that no namespace covers and that lead out, refused for the command and all that it starts (seccomp(2)).
//!
//! Few and by name, so that nothing else breaks: this is no sandbox of its own. Processes of another architecture than
//! ours (32-bit ones) are ended, since the same calls have other numbers there.

use anyhow::Context;
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter, sock_filter,
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

/// The bit of the x32 calls of x86-64 (`__X32_SYSCALL_BIT`), which have the architecture of the ordinary ones and other
/// numbers. No call of another architecture is as high.
const X32: u32 = 0x4000_0000;

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
    let rules: BpfProgram = filter.try_into()?;
    Ok(without_x32().into_iter().chain(rules).collect())
}

/// Answers every x32 call as a kernel that has none does (x32(7), `bpf_common.h` for the codes), and goes on with others.
fn without_x32() -> [sock_filter; 3] {
    const LOAD_NUMBER: u16 = 0x20;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    let no_such_call = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    [
        sock_filter { code: LOAD_NUMBER, jt: 0, jf: 0, k: 0 },
        sock_filter { code: JUMP_IF_AT_LEAST, jt: 0, jf: 1, k: X32 },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: no_such_call },
    ]
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_filter_is_one_that_the_kernel_could_take() {
        let program = super::filter().unwrap();
        assert!((10..200).contains(&program.len()), "{}", program.len());
    }
}
