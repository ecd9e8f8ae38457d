//! Why namespaces cannot be made here, and what to do: each way in which systems restrict them has its own words.

use nix::errno::Errno;
use std::fs;

/// What the system says of itself.
#[derive(Debug, Default)]
pub(super) struct Restrictions {
    /// Debian's own switch.
    clone: Option<u64>,
    /// `user.max_user_namespaces`
    most: Option<u64>,
    /// Ubuntu from 24.04 on.
    apparmor: Option<u64>,
}

impl Restrictions {
    pub(super) fn read() -> Self {
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
        Self {
            clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            most: number("/proc/sys/user/max_user_namespaces"),
            apparmor: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        }
    }

    /// What to tell when `step` failed so.
    pub(super) fn explain(&self, step: &str, errno: Errno) -> anyhow::Error {
        let refused = matches!(errno, Errno::EPERM | Errno::EACCES);
        let way = if self.most == Some(0) {
            "user.max_user_namespaces is 0: sudo sysctl -w user.max_user_namespaces=15000 (and a file in /etc/sysctl.d \
             to keep it)"
        } else if errno == Errno::ENOSPC {
            "there are as many namespaces as user.max_user_namespaces and its fellows allow: raise them, or end other \
             sandboxes"
        } else if refused && self.clone == Some(0) {
            "kernel.unprivileged_userns_clone is 0: sudo sysctl -w kernel.unprivileged_userns_clone=1 (and a file in \
             /etc/sysctl.d to keep it)"
        } else if refused && self.apparmor == Some(1) {
            "AppArmor restricts user namespaces (kernel.apparmor_restrict_unprivileged_userns=1): allow this program \
             with a profile, as docs/exec.md shows, or lift it for all: sudo sysctl -w \
             kernel.apparmor_restrict_unprivileged_userns=0"
        } else if errno == Errno::EUSERS {
            "user namespaces are nested too deep here"
        } else if refused {
            "something forbids it, most often a container's seccomp profile: give the container `--security-opt \
             seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined`, or run \
             outgate outside of it; in a chroot it is never possible"
        } else {
            "does this kernel have user, network, mount and PID namespaces?"
        };
        anyhow::anyhow!("{step}: {errno}; {way}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_restriction_has_its_own_words() {
        let told = |restrictions: Restrictions, errno| restrictions.explain("x", errno).to_string();
        let debian = Restrictions { clone: Some(0), most: Some(1), apparmor: None };
        let ubuntu = Restrictions { apparmor: Some(1), most: Some(1), clone: Some(1) };
        let none = || Restrictions { most: Some(0), ..Restrictions::default() };
        assert!(told(debian, Errno::EPERM).contains("kernel.unprivileged_userns_clone=1"));
        assert!(told(ubuntu, Errno::EACCES).contains("docs/exec.md"));
        assert!(told(none(), Errno::ENOSPC).contains("user.max_user_namespaces is 0"));
        assert!(told(Restrictions::default(), Errno::ENOSPC).contains("as many namespaces"));
        assert!(told(Restrictions::default(), Errno::EPERM).contains("seccomp"));
        assert!(told(Restrictions::default(), Errno::EINVAL).contains("does this kernel"));
    }
}
