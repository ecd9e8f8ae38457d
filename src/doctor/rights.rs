//! What this process may do, and how many ways out its namespace has.

use super::Check;
use super::ground;
use crate::shim::is_led_by_rule;
use crate::steer::privilege::Status;
use caps::{Capability, CapsHashSet};
use socket2::{Domain, Socket, Type};

/// With any of these a workload changes its own network or looks into others (capability.h; as `outgate init` has them).
const DANGEROUS: [Capability; 9] = [
    Capability::CAP_SETPCAP,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_SYS_MODULE,
    Capability::CAP_SYS_RAWIO,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_PERFMON,
    Capability::CAP_BPF,
];
const REMEDY: &str = "start the workload with `outgate init ... -- CMD`, and each exec into it with `outgate init --drop-only -- CMD`";

const LED: &str =
    "fine where that table leads to the gate (outgate init --policy-route): ip rule, ip -6 rule";

pub(super) fn checks() -> Vec<Check> {
    let mut checks = match Status::read() {
        Ok(status) => vec![capabilities(&status), bounding(&status)],
        Err(error) => vec![Check::bad("capabilities", error.to_string(), "mount /proc in the container")],
    };
    checks.extend([mark(), interfaces(), routes()]);
    checks
}

fn capabilities(status: &Status) -> Check {
    let held = status.number("CapEff", 16) | status.number("CapPrm", 16);
    match words(held) {
        held if !held.is_empty() => Check::bad("capabilities", format!("this process has {held}"), REMEDY),
        _ => Check::good("capabilities", format!("none that matters (CapEff {})", status.field("CapEff"))),
    }
}

/// What a program with its setuid bit or file capabilities would get.
fn bounding(status: &Status) -> Check {
    let bounded =
        words(status.number("CapBnd", 16) | status.number("CapInh", 16) | status.number("CapAmb", 16));
    let sealed = status.number("NoNewPrivs", 10) == 1;
    match (bounded.is_empty(), sealed) {
        (true, true) => {
            Check::good("no new privileges", "set, and the bounding set holds nothing that matters")
        }
        (true, false) => {
            Check::warn("no new privileges", "not set; the bounding set holds nothing that matters", REMEDY)
        }
        (false, true) => Check::warn(
            "no new privileges",
            format!("set, but the bounding set still holds {bounded}"),
            REMEDY,
        ),
        (false, false) => {
            let fact = format!("not set, and a setuid program gives {bounded} back");
            Check::bad("no new privileges", fact, REMEDY)
        }
    }
}

fn words(mask: u64) -> String {
    let dangerous: CapsHashSet = DANGEROUS.into_iter().filter(|cap| mask & cap.bitmask() != 0).collect();
    let mut names: Vec<String> = dangerous.iter().map(ToString::to_string).collect();
    names.sort();
    names.join(", ")
}

fn mark() -> Check {
    let marked = Socket::new(Domain::IPV4, Type::DGRAM, None).and_then(|socket| socket.set_mark(1));
    match marked {
        Ok(()) => Check::bad("packet mark", "SO_MARK can be set, which passes exemptions by mark", REMEDY),
        Err(error) => Check::good("packet mark", format!("SO_MARK is refused: {error}")),
    }
}

fn interfaces() -> Check {
    let up = ground::interfaces();
    match up.len() {
        0 => Check::good("interfaces", "no interface is up"),
        1 => Check::good("interfaces", format!("{} alone", up.concat())),
        _ => {
            let fact = format!("{} are up, and any program may bind to the one it likes", up.join(", "));
            Check::bad("interfaces", fact, "attach the workload to the gate's network only")
        }
    }
}

fn routes() -> Check {
    let mut gateways: Vec<String> = ground::gateways().iter().map(|via| via.gateway.to_string()).collect();
    gateways.sort();
    gateways.dedup();
    let led = is_led_by_rule();
    match gateways.len() {
        0 | 1 if led => {
            let through = gateways.first().map_or("no gateway", String::as_str);
            let fact =
                format!("the main table leads through {through}, but a rule has another table asked first");
            Check::warn("routes", fact, LED)
        }
        0 => Check::good("routes", "no route leads through a gateway"),
        1 => Check::good("routes", format!("all lead through {}", gateways.concat())),
        _ if led => {
            let fact = format!(
                "they lead through {}, and a rule has another table asked first",
                gateways.join(", ")
            );
            Check::warn("routes", fact, LED)
        }
        _ => {
            let fact = format!("they lead through {}", gateways.join(", "));
            Check::bad(
                "routes",
                fact,
                "leave the default route to the gate as the only one: outgate init --gateway",
            )
        }
    }
}
