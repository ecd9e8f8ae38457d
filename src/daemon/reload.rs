//! Another policy or upstream proxy while flows run: loaded whole, a policy tried on its cases, swapped at once, or not
//! at all. Neither waits for the other: a proxy setting that is wrong keeps the old proxy, and the policy still follows.

use super::prepare::{load_policy, load_proxy, redirected_ports, steer_settings};
use super::steering::Steering;
use super::{Running, notice};
use crate::audit::{Event, Text};
use crate::config::Config;
use crate::secrets::Environment;
use crate::tls::Anchors;
use std::sync::Arc;
use tokio::sync::Mutex;

pub(super) struct Reloader {
    config: Arc<Config>,
    environment: Arc<Environment>,
    anchors: Anchors,
    running: Arc<Running>,
    steering: Option<Arc<Steering>>,
    /// One at a time; the next sees what the one before has made.
    turn: Mutex<()>,
}

impl Reloader {
    pub(super) fn new(
        config: Arc<Config>,
        environment: Arc<Environment>,
        anchors: Anchors,
        running: Arc<Running>,
        steering: Option<Arc<Steering>>,
    ) -> Self {
        Self { config, environment, anchors, running, steering, turn: Mutex::new(()) }
    }

    /// Gives the version that is in force afterwards, or why the old one stays.
    pub(super) async fn reload(&self, cause: &'static str) -> Result<String, String> {
        let _turn = self.turn.lock().await;
        notice::reloading();
        let proxy = self.proxy(cause).await;
        let policy = self.policy(cause).await;
        match (policy, proxy) {
            (policy, Ok(())) => policy,
            (Ok(version), Err(why)) => Err(format!("{why}\nThe policy in force is {version}.")),
            (Err(policy), Err(proxy)) => Err(format!("{policy}\n{proxy}")),
        }
    }

    async fn policy(&self, cause: &'static str) -> Result<String, String> {
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
        notice::ready(&self.running);
        result
    }

    /// Reads `[upstream.proxy]` again. New connections go by it; open ones end with what they carry.
    async fn proxy(&self, cause: &'static str) -> Result<(), String> {
        let (config, environment, anchors) =
            (self.config.clone(), self.environment.clone(), self.anchors.clone());
        let loading = tokio::task::spawn_blocking(move || {
            let fresh = Config::load(&config.file, Some(config.mode))?;
            load_proxy(&fresh, &environment, &anchors)
        });
        let loaded = match loading.await {
            Ok(loaded) => loaded.map_err(|error| format!("{error:#}")),
            Err(error) => Err(format!("loading it failed: {error}")),
        };
        let shared = &self.running.gate.shared;
        let (event, detail) = match loaded {
            Ok(proxy) => {
                let now = proxy.as_ref().map_or_else(|| "none".to_owned(), |p| p.settings().url.to_string());
                if !shared.upstream.change_proxy(proxy) {
                    return Ok(());
                }
                tracing::info!(cause, proxy = now, "the upstream proxy was changed");
                ("proxy_changed", now)
            }
            Err(why) => {
                for line in why.lines() {
                    tracing::error!(cause, "the upstream proxy stays as it was: {}", line.trim());
                }
                ("proxy_refused", why)
            }
        };
        shared.log.note(&Event {
            event,
            detail: Some(Text::from(&detail)),
            fields: &[("cause", Text::from(cause))],
        });
        if event == "proxy_refused" { Err(detail) } else { Ok(()) }
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
        if let Some(steering) = &self.steering {
            steering
                .follow(steer_settings(&self.config, &snapshot), redirected_ports(&snapshot))
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
