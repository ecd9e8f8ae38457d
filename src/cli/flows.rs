//! `outgate flows` and `reload`: asks a running daemon over its admin socket, and reads the records.

use super::{ConfigFile, out, verdict};
use crate::admin::client;
use crate::audit;
use crate::config::Config;
use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// The flows that are open now
    Ls {
        #[command(flatten)]
        file: ConfigFile,
        #[arg(long)]
        json: bool,
    },
    /// Checks the records' chain: nothing edited, nothing missing
    Verify {
        #[command(flatten)]
        file: ConfigFile,
    },
}

pub(super) fn perform(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Ls { file, json } => list(&file.file, json),
        Verb::Verify { file } => verify(&file.file),
    }
}

fn list(file: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let config = Config::load(file, None)?;
    let (status, text) = client::call(&config.admin.socket, "GET", "/flows")?;
    if status != 200 {
        bail!("the daemon answered {status}: {text}");
    }
    if as_json {
        out(&(text + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let flows: Vec<Value> =
        serde_json::from_str(&text).context("the daemon's answer is not what was expected")?;
    let field = |flow: &Value, name: &str| match flow.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    let columns = ["id", "client", "source", "door", "host", "age_seconds"];
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING).set_header(columns.map(str::to_uppercase));
    for flow in &flows {
        table.add_row(columns.map(|name| field(flow, name)));
    }
    out(&format!("{table}\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn verify(file: &Path) -> anyhow::Result<ExitCode> {
    let config = Config::load(file, None)?;
    let audit::Sink::File(path) = &config.audit.sink else {
        bail!("the records go to standard output, not to a file")
    };
    let report = audit::verify(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let mut text = String::new();
    for problem in &report.problems {
        writeln!(text, "{}:{}: {}", path.display(), problem.line, problem.what)?;
    }
    writeln!(
        text,
        "{} records, {} to {}; last hash {}",
        report.records, report.first_seq, report.last_seq, report.last_hash
    )?;
    if report.torn {
        text.push_str("the last line is not complete: the daemon died while writing it, or is writing\n");
    }
    let end = if report.is_whole() {
        "nothing is missing or changed\n".to_owned()
    } else {
        format!("{} problems\n", report.problem_count)
    };
    text.push_str(&end);
    out(&text)?;
    Ok(verdict(report.is_whole()))
}

/// `outgate reload`.
pub(super) fn reload(file: &Path) -> anyhow::Result<ExitCode> {
    let config = Config::load(file, None)?;
    let (status, text) = client::call(&config.admin.socket, "POST", "/reload")?;
    out(&(text.trim_end().to_owned() + "\n"))?;
    Ok(verdict(status == 200))
}
