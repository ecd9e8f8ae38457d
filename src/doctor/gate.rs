//! From the gateway: the configuration beside what the machine is really like.

use super::process::Running;
use super::{Check, Report, authority, doors, kernel, process, tables};
use crate::config::Config;
use crate::policy::{LoadOptions, Problems, Snapshot, environment_names};
use crate::secrets::Environment;
use std::path::Path;
use std::sync::Arc;

const CHECK: &str = "outgate check says all of it, with lines and ways out";

/// All checks of a gateway with this configuration.
pub fn gate(file: &Path) -> Report {
    let config = match Config::load(file, None) {
        Ok(config) => config,
        Err(problems) => return Report { checks: vec![wrong("configuration", &problems)] },
    };
    let fact = format!("{}: mode {}", file.display(), config.mode.as_str());
    let mut checks = vec![Check::good("configuration", fact)];
    let (daemon, running) = process::daemon(&config);
    let snapshot = policy(&config, running.as_ref(), &mut checks);
    authority::checks(&config, &mut checks);
    checks.extend(daemon);
    let intact = running.as_ref().map(|running| running.intact);
    let fence = tables::checks(&config, snapshot.as_deref(), intact, &mut checks);
    kernel::checks(&config, fence, &mut checks);
    doors::checks(&config, fence, running.is_some(), &mut checks);
    Report { checks }
}

/// The first of the problems, with its own way out.
fn wrong(check: &'static str, problems: &Problems) -> Check {
    let (fact, remedy) = first(problems);
    Check::bad(check, fact, remedy)
}

fn first(problems: &Problems) -> (String, String) {
    let Some(first) = problems.iter().next() else { return (String::new(), CHECK.to_owned()) };
    let place = if first.line > 0 { format!(":{}", first.line) } else { String::new() };
    let more = match problems.0.len() {
        1 => String::new(),
        all => format!(" (and {} more: outgate check)", all - 1),
    };
    let fact = format!("{}{place}: {}{more}", first.file.display(), first.message);
    (fact, first.help.clone().unwrap_or_else(|| CHECK.to_owned()))
}

/// The policy, and the secrets that it needs.
fn policy(config: &Config, running: Option<&Running>, checks: &mut Vec<Check>) -> Option<Arc<Snapshot>> {
    let bare = LoadOptions { without_secrets: true, ..LoadOptions::default() };
    let snapshot = match Snapshot::load(&config.policies, &bare) {
        Ok(snapshot) => Arc::new(snapshot),
        Err(problems) => {
            checks.push(wrong("policy", &problems));
            return None;
        }
    };
    let (rules, version) = (snapshot.rules().len(), snapshot.version());
    checks.push(match snapshot.run_cases(&config.policies) {
        Err(problems) => wrong("policy", &problems),
        Ok(report) if !report.failures.is_empty() => {
            let fact = format!("{} of its cases do not hold", report.failures.len());
            Check::bad("policy", fact, "outgate test shows them; a reload with them is refused")
        }
        Ok(_) if running.is_some_and(|running| running.policy != version) => {
            let fact = format!("{version} lies in the folder, and the daemon judges by another one");
            Check::warn("policy", fact, "its log says why it was not taken; outgate reload tries again")
        }
        Ok(_) if !snapshot.warnings().is_empty() => {
            let (fact, remedy) = first(&Problems(snapshot.warnings().to_vec()));
            Check::warn("policy", fact, remedy)
        }
        Ok(report) => {
            Check::good("policy", format!("{rules} rules, {} cases, version {version}", report.passed))
        }
    });
    checks.push(secrets(config, running.is_some_and(|running| running.policy == version)));
    Some(snapshot)
}

/// A daemon that judges by this very policy had all of its secrets; some of them may come from where only it can look
/// (its environment, the credentials of its unit).
fn secrets(config: &Config, in_use: bool) -> Check {
    let names = environment_names(&config.policies).unwrap_or_default();
    let environment = Environment::read(&names).of_user(config.run_as.map(|user| user.uid));
    let options = LoadOptions { environment: Some(&environment), ..LoadOptions::default() };
    match Snapshot::load(&config.policies, &options) {
        Ok(_) => Check::good("secrets", "every secret of the policy can be read"),
        Err(problems) if in_use => {
            let (fact, _) = first(&problems);
            let fact = format!("the daemon has read them, but from here not all can be: {fact}");
            Check::warn("secrets", fact, "fine where they come from the daemon's own environment or unit")
        }
        Err(problems) => wrong("secrets", &problems),
    }
}
