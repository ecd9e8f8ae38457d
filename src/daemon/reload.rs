//! Another policy while flows run: loaded whole, tried on its cases, swapped at once, or not at all.

use super::Running;
use super::prepare::{load_policy, steer_settings};
use super::steering::Steering;
use crate::audit::{Event, Text};
use crate::config::Config;
use crate::secrets::Environment;
use std::sync::Arc;
use tokio::sync::Mutex;

pub(super) struct Reloader {
    config: Arc<Config>,
    environment: Arc<Environment>,
    running: Arc<Running>,
    steering: Option<Arc<Steering>>,
    /// One at a time; the next sees what the one before has made.
    turn: Mutex<()>,
}

impl Reloader {
    pub(super) fn new(
        config: Arc<Config>,
        environment: Arc<Environment>,
        running: Arc<Running>,
        steering: Option<Arc<Steering>>,
    ) -> Self {
        Self { config, environment, running, steering, turn: Mutex::new(()) }
    }

    /// Gives the version that is in force afterwards, or why the old one stays.
    pub(super) async fn reload(&self, cause: &'static str) -> Result<String, String> {
        let _turn = self.turn.lock().await;
        let result = self.swap().await;
        let shared = &self.running.gate.shared;
        let (event, detail) = match &result {
            Ok(version) => ("reload", version),
            Err(why) => ("reload_failed", why),
        };
        shared.log.note(&Event {
            event,
            detail: Some(Text::from(detail)),
            fields: &[("cause", Text::from(cause))],
        });
        match &result {
            Ok(version) => {
                shared.metrics.policy_loaded(version, unix_seconds());
                tracing::info!(cause, version, "the policy was reloaded");
            }
            Err(why) => {
                shared.metrics.policy_refused();
                for line in why.lines() {
                    tracing::error!(cause, "the policy stays as it was: {}", line.trim());
                }
            }
        }
        result
    }

    async fn swap(&self) -> Result<String, String> {
        let (config, environment) = (self.config.clone(), self.environment.clone());
        let shared = &self.running.gate.shared;
        let previous = shared.snapshot.load_full();
        // Commands that give secrets may take seconds; they must not hold up flows.
        let loading =
            tokio::task::spawn_blocking(move || load_policy(&config, &environment, Some(&previous)));
        let snapshot = match loading.await {
            Ok(Ok(snapshot)) => snapshot,
            Ok(Err(error)) => return Err(format!("{error:#}")),
            Err(error) => return Err(format!("loading it failed: {error}")),
        };
        let version = snapshot.version().to_owned();
        if version == shared.snapshot.load().version() && snapshot.secrets().is_empty() {
            return Ok(version);
        }
        if let (Some(steering), Some(settings)) = (&self.steering, steer_settings(&self.config, &snapshot)) {
            steering
                .apply(settings)
                .await
                .map_err(|error| format!("the tables could not follow it: {error}"))?;
        }
        shared.snapshot.store(snapshot);
        Ok(version)
    }
}

pub(super) fn unix_seconds() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}
