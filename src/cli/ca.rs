//! `outgate ca`: the authority's files and what clients need of it. The private key is never printed.

use super::{ConfigFile, json, out, shown};
use crate::config::Config;
use crate::tls::{
    Anchors, Authority, Created, EnvStyle, Roots, bundle, env_lines, promote, stage, to_pem, trusted,
};
use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use rustls::pki_types::CertificateDer;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Makes the authority (the daemon does so by itself at its first start)
    New {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Subject, validity, fingerprint and constraints of the certificate
    Show {
        #[command(flatten)]
        file: ConfigFile,
        #[arg(long)]
        json: bool,
    },
    /// The certificate alone
    Export {
        #[command(flatten)]
        file: ConfigFile,
        #[arg(long, value_enum, default_value = "pem")]
        format: Format,
        /// Where to write it; standard output otherwise
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// This system's roots and ours in one PEM file: what most tools want
    Bundle {
        #[command(flatten)]
        file: ConfigFile,
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// The variables that make a client's tools trust the gate
    Env {
        #[command(flatten)]
        file: ConfigFile,
        /// Where the client sees the combined bundle
        #[arg(long, value_name = "PATH")]
        bundle: PathBuf,
        /// Where the client sees our certificate alone
        #[arg(long, value_name = "PATH")]
        certificate: PathBuf,
        /// For a shell to evaluate, or for docker --env-file
        #[arg(long, value_enum, default_value = "shell")]
        style: Style,
    },
    /// Prepares the next authority while the present one still signs; with --now, puts it in place
    Rotate {
        #[command(flatten)]
        file: ConfigFile,
        #[arg(long)]
        now: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Format {
    Pem,
    Der,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Style {
    Shell,
    File,
}

pub(super) fn perform(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::New { file } => new(&file.file)?,
        Verb::Show { file, json } => show(&file.file, json)?,
        Verb::Export { file, format, output } => {
            let all = certificates(&file.file)?;
            match (format, all.first()) {
                (Format::Der, Some(current)) => write(output.as_deref(), current)?,
                _ => write(
                    output.as_deref(),
                    all.iter().map(|der| to_pem(der)).collect::<String>().as_bytes(),
                )?,
            }
        }
        Verb::Bundle { file, output } => {
            let anchors = Anchors::load(&Roots::System)?;
            write(output.as_deref(), bundle(&anchors, &certificates(&file.file)?).as_bytes())?;
        }
        Verb::Env { file, bundle, certificate, style } => {
            certificates(&file.file)?;
            let style = match style {
                Style::Shell => EnvStyle::Shell,
                Style::File => EnvStyle::EnvFile,
            };
            let lines = env_lines(style, &bundle, &certificate)
                .context("a path holds a character that an environment file cannot carry")?;
            out(&lines)?;
        }
        Verb::Rotate { file, now } => rotate(&file.file, now)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What clients should trust: the current certificate first, and the next and previous while they are valid.
fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let config = Config::load(file, None)?;
    let all = trusted(&config.ca)?;
    if all.is_empty() {
        return Err(missing(&config, file));
    }
    Ok(all)
}

/// A client that trusts what nobody uses is no help, so none is made here.
fn missing(config: &Config, file: &Path) -> anyhow::Error {
    anyhow::anyhow!(
        "there is no authority at {} that this user can read: start the daemon once, or outgate ca new -c {}",
        shown(&config.ca.certificate),
        shown(file)
    )
}

fn rotate(file: &Path, now: bool) -> anyhow::Result<()> {
    let config = Config::load(file, None)?;
    if now {
        let authority = promote(&config.ca)?;
        let summary = authority.summary();
        return out(&format!(
            "{summary}\nin place; restart the daemon, and keep the old one trusted for a week\n"
        ));
    }
    let (next, created) = stage(&config.ca)?;
    let word = if created == Created::Loaded { "was prepared before" } else { "is prepared" };
    let summary = next.summary();
    out(&format!("{summary}\n{word}: give clients `outgate ca bundle`, then run `outgate ca rotate --now`\n"))
}

fn new(file: &Path) -> anyhow::Result<()> {
    let config = Config::load(file, None)?;
    let (authority, created) = Authority::load_or_create(&config.ca)?;
    if created == Created::Loaded {
        bail!("there is an authority already: {} (outgate ca show)", shown(&config.ca.certificate));
    }
    let summary = authority.summary();
    out(&format!("{}\n{}\nsha256 {}\n", shown(&config.ca.certificate), summary.subject, summary.fingerprint))
}

fn show(file: &Path, as_json: bool) -> anyhow::Result<()> {
    let config = Config::load(file, None)?;
    let summary = Authority::describe(&config.ca)?.ok_or_else(|| missing(&config, file))?;
    if !as_json {
        return out(&format!("certificate  {}\n{summary}\n", shown(&config.ca.certificate)));
    }
    json(&serde_json::json!({
        "certificate": config.ca.certificate,
        "subject": summary.subject,
        "serial": summary.serial,
        "not_before": summary.not_before.unix_timestamp(),
        "not_after": summary.not_after.unix_timestamp(),
        "sha256": summary.fingerprint,
        "key": summary.key,
        "permitted": summary.permitted,
    }))
}

fn write(to: Option<&Path>, bytes: &[u8]) -> anyhow::Result<()> {
    match to {
        Some(path) => {
            std::fs::write(path, bytes).with_context(|| format!("{} cannot be written", shown(path)))
        }
        None => {
            let mut stdout = std::io::stdout().lock();
            if stdout.is_terminal() && std::str::from_utf8(bytes).is_err() {
                bail!("DER is no text: name a file with -o");
            }
            match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
                // The reader has what it wanted.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
                written => written.context("standard output cannot be written"),
            }
        }
    }
}
