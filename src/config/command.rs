//! The configuration of a gate for one command (`outgate exec`): the same file, without the parts that describe a
//! gateway, and a sensible one where there is no file.
//!
//! Taken from the file: policies, authority, resolver, upstream roots, records, limits. Doors, tables, user and admin
//! are the command's own, whatever the file says.

use super::raw::Source;
use super::{Config, Mode};
use crate::admin;
use crate::audit::Sink;
use crate::policy::{Problem, Problems, SoleClient};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where things are that the file does not name.
#[derive(Debug, Clone)]
pub struct Places {
    /// From the command line; wins over the file.
    pub policies: Option<PathBuf>,
    /// Holds the authority.
    pub state: PathBuf,
    pub records: PathBuf,
    pub admin_socket: PathBuf,
    pub client: Option<String>,
}

/// For the last flows of a command that is gone: its sockets are closed, so they are over but for their records.
const LAST_FLOWS: Duration = Duration::from_millis(500);

impl Config {
    /// # Errors
    /// Every problem of the file.
    pub fn for_command(file: Option<&Path>, places: Places) -> Result<Self, Problems> {
        let path = file.unwrap_or(Path::new(""));
        let text = match file {
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                let problem = Problem::with_file(path, format!("cannot be read: {error}"));
                Problems::one(problem.help("name the configuration with -c FILE, or leave it out"))
            })?,
            None => String::new(),
        };
        let source = Source::new(path, &text);
        let (raw, problems) = source.parse();
        let Some(mut raw) = raw else { return Err(Problems(problems)) };
        let own_authority = raw.ca.certificate.is_none() && raw.ca.key.is_none();
        let own_records = raw.audit.file.is_none();
        raw.keep_for_a_command();
        let mut config = Self::checked(&source, raw, Some(Mode::Transparent), problems)?;
        if own_authority {
            config.ca.certificate = places.state.join("ca.pem");
            config.ca.key = places.state.join("ca.key");
        }
        if own_records {
            config.audit.sink = Sink::File(places.records);
        } else if config.audit.sink == Sink::Stdout {
            let problem = source.problem("audit.file", "standard output is the command's own");
            return Err(Problems::one(problem.help("name a file, or leave it out")));
        }
        if let Some(policies) = places.policies {
            config.policies = policies;
        }
        config.sole_client = Some(SoleClient(places.client));
        config.watches_policies = false;
        config.run_as = None;
        config.steer = None;
        config.admin = admin::Settings { socket: places.admin_socket, http: None };
        config.limits.flow.stop = LAST_FLOWS;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, Problems> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("outgate.toml");
        std::fs::write(&file, text).unwrap();
        let places = Places {
            policies: None,
            state: "/state".into(),
            records: "/state/records".into(),
            admin_socket: "/state/admin".into(),
            client: Some("agent".into()),
        };
        Config::for_command(Some(&file), places)
    }

    #[test]
    fn what_describes_a_gateway_is_not_the_commands() {
        let gateway = "user = \"nobody\"\npolicies = \"rules\"\n[listen]\nexplicit = [\"10.0.0.1:3128\"]\n[steer]\n\
                       interfaces = [\"eth1\"]\nnetworks = [\"10.0.0.0/24\"]\n[admin]\nsocket = \"a\"\nhttp = \"127.0.0.1:1\"\n";
        let config = load(gateway).unwrap();
        assert!(config.steer.is_none() && config.run_as.is_none() && config.explicit.is_empty());
        assert!(config.admin.http.is_none() && config.admin.socket.ends_with("state/admin"));
        assert!(config.policies.ends_with("rules") && !config.watches_policies);
        assert_eq!(config.sole_client, Some(SoleClient(Some("agent".into()))));
        assert_eq!(config.ca.key, Path::new("/state/ca.key"));
        assert_eq!(config.audit.sink, Sink::File("/state/records".into()));
    }

    #[test]
    fn authority_and_records_of_the_file_are_kept_unless_they_are_the_commands_output() {
        let config = load("[ca]\nkey = \"k\"\ncertificate = \"c\"\n[audit]\nfile = \"r\"\n").unwrap();
        assert!(config.ca.key.ends_with("k") && config.ca.key != Path::new("/state/ca.key"));
        assert!(matches!(config.audit.sink, Sink::File(path) if path.ends_with("r")));
        assert!(load("[audit]\nfile = \"-\"\n").unwrap_err().to_string().contains("the command's own"));
        assert!(load("unknown = 1\n").is_err());
    }
}
