//! `outgate check`, `test` and `explain`: the policy without a daemon.

use super::{json, out, verdict};
use crate::config::Config;
use crate::policy::{LoadOptions, Problem, Problems, Snapshot, read_request_line};
use crate::secrets::Environment;
use crate::tls::Anchors;
use crate::upstream::{Proxy, ProxyLoadError};
use anyhow::{Context, bail};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// Checks a configuration and the policy it names.
pub(super) fn check(file: &Path, without_secrets: bool, as_json: bool) -> anyhow::Result<ExitCode> {
    let config = Config::load(file, None);
    let (problems, summary) = match &config {
        Err(problems) => (problems.0.clone(), None),
        Ok(config) => match load(&config.policies, without_secrets, config.run_as.map(|user| user.uid)) {
            Err(problems) => (problems.0, None),
            Ok(snapshot) => {
                let mut found = snapshot.warnings().to_vec();
                if !without_secrets {
                    found.extend(unusable_proxy(config));
                }
                found.extend(failed_cases(&snapshot, &config.policies)?);
                let summary = format!(
                    "{}: mode {}, {} rules, policy {}",
                    file.display(),
                    config.mode.as_str(),
                    snapshot.rules().len(),
                    snapshot.version()
                );
                (found, Some(summary))
            }
        },
    };
    let good = summary.is_some() && problems.iter().all(|problem| problem.warning);
    if as_json {
        json(&report(good, &problems))?;
        return Ok(verdict(good));
    }
    let mut text = String::new();
    for problem in &problems {
        writeln!(text, "{problem}")?;
    }
    match summary.filter(|_| good) {
        Some(summary) => writeln!(text, "ok  {summary}")?,
        None => {
            let errors = problems.iter().filter(|problem| !problem.warning).count();
            writeln!(text, "{errors} to mend")?;
        }
    }
    out(&text)?;
    Ok(verdict(good))
}

/// The upstream proxy whose password or certificates cannot be had.
fn unusable_proxy(config: &Config) -> Option<Problem> {
    let settings = config.proxy.clone()?;
    let names: Vec<_> = settings.environment_name().map(str::to_owned).into_iter().collect();
    let environment = Environment::read(&names);
    let loaded = Anchors::load(&config.roots)
        .map_err(ProxyLoadError::from)
        .and_then(|anchors| Proxy::load(settings, &environment, &anchors));
    loaded.err().map(|error| Problem::with_file(&config.file, format!("[upstream.proxy]: {error}")))
}

fn report(good: bool, problems: &[Problem]) -> serde_json::Value {
    let problems: Vec<_> = problems
        .iter()
        .map(|p| {
            serde_json::json!({
                "file": p.file, "line": p.line, "column": p.column, "message": p.message, "help": p.help,
                "severity": if p.warning { "warning" } else { "error" },
            })
        })
        .collect();
    serde_json::json!({ "ok": good, "problems": problems })
}

/// Failed cases as problems, so that one list shows all.
fn failed_cases(snapshot: &Arc<Snapshot>, folder: &Path) -> anyhow::Result<Vec<Problem>> {
    let report = snapshot.run_cases(folder)?;
    Ok(report
        .failures
        .iter()
        .map(|failure| {
            let mut problem =
                Problem::with_file(&failure.file, format!("case {:?}: {}", failure.name, failure.message));
            problem.line = failure.line;
            problem.column = 1;
            problem.help("change the rule or the case; outgate explain METHOD URL shows who speaks")
        })
        .collect())
}

/// `user`: whose files the daemon takes for its own, beside root's.
fn load(folder: &Path, without_secrets: bool, user: Option<u32>) -> Result<Arc<Snapshot>, Problems> {
    let names = crate::policy::environment_names(folder)?;
    let environment = Environment::read(&names).of_user(user);
    let options = LoadOptions { environment: Some(&environment), without_secrets, ..LoadOptions::default() };
    Snapshot::load(folder, &options).map(Arc::new)
}

/// Runs the case files of a policy folder.
pub(super) fn test(folder: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let snapshot = load(folder, true, None)?;
    let report = snapshot.run_cases(folder)?;
    let good = report.failures.is_empty();
    if as_json {
        let failures: Vec<_> = report
            .failures
            .iter()
            .map(|f| serde_json::json!({ "file": f.file, "line": f.line, "name": f.name, "message": f.message }))
            .collect();
        json(
            &serde_json::json!({ "passed": report.passed, "failed": failures.len(), "failures": failures }),
        )?;
        return Ok(verdict(good));
    }
    let mut text = String::new();
    for failure in &report.failures {
        writeln!(text, "{failure}")?;
    }
    writeln!(text, "{} cases passed, {} failed", report.passed, report.failures.len())?;
    if report.passed == 0 && good {
        writeln!(text, "there are no cases: write them into NAME.cases.toml in {}", folder.display())?;
    }
    out(&text)?;
    Ok(verdict(good))
}

/// Tells which rule speaks for a request.
pub(super) fn explain(
    folder: &Path,
    client: Option<&str>,
    headers: &[String],
    method: &str,
    url: &str,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let snapshot = load(folder, true, None)?;
    let request = read_request_line(&format!("{method} {url}"), fields(headers)?)?;
    let client = match client {
        Some(name) => snapshot
            .client_by_name(name)
            .with_context(|| format!("the policy has no client {name:?}; it has {}", names(&snapshot)))?,
        None => {
            let mut all = snapshot.clients();
            match (all.next(), all.next()) {
                (Some(only), None) => only,
                (None, _) => bail!("the policy has no [[client]]"),
                (Some(_), Some(_)) => bail!("name the client with --client: {}", names(&snapshot)),
            }
        }
    };
    let explanation = snapshot.explain(client, &request);
    let passes = explanation.finding.verdict.as_str() != "deny";
    if as_json {
        json(&explanation)?
    } else {
        out(&format!("{explanation}\n"))?
    }
    Ok(verdict(passes))
}

fn names(snapshot: &Snapshot) -> String {
    let names: Vec<_> = snapshot.clients().map(|client| snapshot.client_name(client).to_string()).collect();
    names.join(", ")
}

fn fields(texts: &[String]) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for text in texts {
        let (name, value) =
            text.split_once(':').with_context(|| format!("{text:?} is not \"name: value\""))?;
        headers.append(HeaderName::try_from(name.trim())?, HeaderValue::try_from(value.trim())?);
    }
    Ok(headers)
}
