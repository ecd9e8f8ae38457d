//! `[resolver]`: who is asked for which names, and what clients are told.

use super::raw::{self, Raw, Source};
use crate::base::HostName;
use crate::dns::{SyntheticSettings, Upstreams, V4_PREFIXES, V6_PREFIXES, Zone};
use crate::policy::Problem;
use ipnet::IpNet;
use std::net::SocketAddr;
use toml::Spanned;

/// What the section says.
pub(super) struct Resolver {
    pub(super) upstreams: Upstreams,
    pub(super) zones: Vec<Zone>,
    pub(super) synthetic: Option<SyntheticSettings>,
}

/// `dns` are the DNS doors, `agents` the clients' networks.
pub(super) fn resolver(
    source: &Source<'_>,
    raw: &Raw,
    dns: &[SocketAddr],
    agents: &[IpNet],
    problems: &mut Vec<Problem>,
) -> Resolver {
    let upstreams = match &raw.resolver.upstreams {
        None => Upstreams::system(),
        Some(value) => upstreams(source, value, dns, problems),
    };
    let zones = zones(source, &raw.resolver.zone, dns, problems);
    Resolver { upstreams, zones, synthetic: synthetic(source, raw, dns, agents, problems) }
}

fn upstreams(
    source: &Source<'_>,
    value: &Spanned<toml::Value>,
    dns: &[SocketAddr],
    problems: &mut Vec<Problem>,
) -> Upstreams {
    if value.as_ref().as_str() == Some("system") {
        return Upstreams::system();
    }
    let servers = source.servers(value, problems);
    if let Some(own) = servers.iter().find(|server| dns.contains(server)) {
        problems.push(
            source
                .at(value, format!("{own} is the DNS door of this gate, which would ask itself for ever"))
                .help("name the resolver behind the gate"),
        );
    }
    Upstreams::Servers(servers)
}

fn zones(
    source: &Source<'_>,
    raw: &[raw::Zone],
    dns: &[SocketAddr],
    problems: &mut Vec<Problem>,
) -> Vec<Zone> {
    let mut zones: Vec<Zone> = Vec::new();
    for zone in raw {
        let upstreams = upstreams(source, &zone.upstreams, dns, problems);
        let text = zone.suffix.as_ref();
        let suffix = match HostName::from_operator(text) {
            Ok(suffix) => suffix,
            Err(error) => {
                let help = "write the zone's own name, as \"corp.example\"; what is under it belongs to it";
                problems.push(source.at(&zone.suffix, format!("{text:?} is no zone: {error}")).help(help));
                continue;
            }
        };
        if zones.iter().any(|known| known.suffix == suffix) {
            let message = format!("the zone {suffix} is named twice");
            problems.push(source.at(&zone.suffix, message).help("put all its servers into one list"));
            continue;
        }
        zones.push(Zone { suffix, upstreams });
    }
    zones
}

/// `None` for real answers.
fn synthetic(
    source: &Source<'_>,
    raw: &Raw,
    dns: &[SocketAddr],
    agents: &[IpNet],
    problems: &mut Vec<Problem>,
) -> Option<SyntheticSettings> {
    let raw = &raw.resolver;
    if raw.answers != Some(raw::Answers::Virtual) {
        if let Some(network) = raw.virtual_networks.as_ref() {
            let message = "virtual_networks without answers = \"virtual\"";
            problems.push(source.at(network, message).help("add that, or take this out"));
        }
        return None;
    }
    if dns.is_empty() {
        let message = "virtual answers need the DNS door, and [listen] does not name it";
        problems
            .push(source.problem("answers", message).help("add dns = [\"192.168.128.1:53\"] to [listen]"));
    }
    let mut settings = SyntheticSettings::default();
    if let Some(listed) = &raw.virtual_networks {
        settings.v6 = None;
        let mut v4 = None;
        for text in listed.as_ref() {
            match text.as_ref().parse::<IpNet>().map(|net| net.trunc()) {
                Ok(IpNet::V4(net)) if v4.is_none() && V4_PREFIXES.contains(&net.prefix_len()) => {
                    v4 = Some(net);
                }
                Ok(IpNet::V6(net)) if settings.v6.is_none() && V6_PREFIXES.contains(&net.prefix_len()) => {
                    settings.v6 = Some(net);
                }
                _ => problems.push(
                    source
                        .at(text, "not a network for virtual answers, or one too many")
                        .help("one IPv4 network from /8 to /19, and at most one IPv6 network from /8 to /64"),
                ),
            }
        }
        match v4 {
            Some(net) => settings.v4 = net,
            None => problems.push(
                source
                    .at(listed, "an IPv4 network is needed")
                    .help("leave virtual_networks out for 198.18.0.0/15 and fd6f:7574:6761:7465::/64"),
            ),
        }
    }
    for net in settings.networks() {
        let meets = |agent: &&IpNet| agent.contains(&net) || net.contains(*agent);
        if let Some(agent) = agents.iter().find(meets) {
            let message = format!("virtual answers in {net} meet the clients' own network {agent}");
            let help = "set virtual_networks to ranges that nothing has and that clients send to the gate";
            problems.push(source.problem("answers", message).help(help));
        }
    }
    Some(settings)
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::dns::Upstreams;

    const GATE: &str = "[listen]\ntransparent = [\"0.0.0.0:15001\"]\ndns = [\"10.77.1.1:53\"]\n\
                        [steer]\ninterfaces = [\"agent0\"]\nnetworks = [\"10.77.1.0/24\", \"198.19.1.0/24\"]\n";

    fn load(section: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("outgate.toml");
        std::fs::write(&file, format!("{GATE}[resolver]\n{section}\n")).unwrap();
        Config::load(&file, None).map_err(|problems| problems.to_string())
    }

    #[test]
    fn zones_and_virtual_answers_are_read() {
        let config = load(
            "upstreams = [\"192.0.2.53\"]\nanswers = \"virtual\"\n\
             virtual_networks = [\"10.128.0.0/9\", \"fd00:1::/48\"]\nvirtual_epochs = \"state/epochs\"\n\
             [[resolver.zone]]\nsuffix = \"Corp.Test\"\nupstreams = [\"10.0.0.53\"]\n\
             [[resolver.zone]]\nsuffix = \"home.test\"\nupstreams = \"system\"",
        )
        .unwrap();
        let zones: Vec<_> = config.resolver.zones.iter().map(|zone| zone.suffix.as_str()).collect();
        assert_eq!(zones, ["corp.test", "home.test"]);
        assert_eq!(
            config.resolver.zones[0].upstreams,
            Upstreams::Servers(vec!["10.0.0.53:53".parse().unwrap()])
        );
        assert_eq!(config.resolver.own, ["10.77.1.1:53".parse().unwrap()]);
        let synthetic = config.limits.leases.synthetic.unwrap();
        assert_eq!(synthetic.v4.to_string(), "10.128.0.0/9");
        assert_eq!(config.resolver.synthetic.len(), 2);
        assert!(config.virtual_epochs.ends_with("state/epochs"));
        assert_eq!(load("").unwrap().limits.leases.synthetic, None);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (section, place, words) in [
            (
                "[[resolver.zone]]\nsuffix = \"*.corp.test\"\nupstreams = [\"10.0.0.53\"]",
                ":9:10",
                "is no zone",
            ),
            (
                "[[resolver.zone]]\nsuffix = \"corp.test\"\nupstreams = []",
                ":10:13",
                "not a list of resolvers",
            ),
            (
                "[[resolver.zone]]\nsuffix = \"corp.test\"\nupstreams = [\"10.77.1.1\"]",
                ":10:13",
                "the DNS door",
            ),
            ("upstreams = [\"10.77.1.1:53\"]", ":8:13", "which would ask itself for ever"),
            ("answers = \"maybe\"", ":8:11", "unknown variant"),
            ("virtual_networks = [\"10.128.0.0/9\"]", ":8:20", "without answers"),
            ("answers = \"virtual\"\nvirtual_networks = [\"10.128.0.0/24\"]", ":9:21", "not a network for"),
            (
                "answers = \"virtual\"\nvirtual_networks = [\"fd00:1::/48\"]",
                ":9:20",
                "an IPv4 network is needed",
            ),
            ("answers = \"virtual\"", ":8:1", "meet the clients' own network 198.19.1.0/24"),
            (
                "[[resolver.zone]]\nsuffix = \"a.test\"\nupstreams = [\"10.0.0.1\"]\n\
                 [[resolver.zone]]\nsuffix = \"A.test\"\nupstreams = [\"10.0.0.2\"]",
                ":12:10",
                "named twice",
            ),
        ] {
            let said = load(section).unwrap_err();
            assert!(said.contains(place) && said.contains(words), "{section}\n{said}");
        }
    }
}
