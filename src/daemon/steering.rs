//! The daemon's side of the helper: hands it what the tables should be, and looks whether they still are.

use super::Readiness;
use crate::steer::{self, AsyncHelper, HelperError, Report, inside};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// How often the tables are looked at.
const LOOK: Duration = Duration::from_secs(2);

pub(super) struct Steering {
    helper: Mutex<AsyncHelper>,
    wanted: Mutex<Wanted>,
}

/// What the tables should say.
#[derive(Clone, Default)]
pub(super) struct Wanted {
    /// What configuration and policy ask for; `None`: there are workloads' own namespaces alone.
    pub(super) own: Option<steer::Settings>,
    /// TCP ports that go to the gate.
    pub(super) ports: Vec<u16>,
    /// Interfaces and networks of attached workloads, by the attachment's number.
    pub(super) interfaces: BTreeMap<u32, (String, Vec<IpNet>)>,
    /// Attached namespaces. Their ports follow `ports`.
    pub(super) places: BTreeMap<u32, inside::Settings>,
}

impl Wanted {
    /// The gate's own tables, workloads that were attached included.
    pub(super) fn tables(&self) -> Option<steer::Settings> {
        let mut settings = self.own.clone()?;
        for (interface, networks) in self.interfaces.values() {
            settings.interfaces.push(interface.clone());
            settings.networks.extend(networks);
        }
        Some(settings)
    }

    fn place(&self, number: u32) -> Option<inside::Settings> {
        let settings = self.places.get(&number)?.clone();
        Some(inside::Settings { redirect_tcp_ports: self.ports.clone(), ..settings })
    }
}

impl Steering {
    /// `wanted` is what the kernel holds already.
    pub(super) fn new(helper: AsyncHelper, wanted: Wanted) -> Self {
        Self { helper: Mutex::new(helper), wanted: Mutex::new(wanted) }
    }

    /// Another policy may open other ports.
    pub(super) async fn follow(
        &self,
        own: Option<steer::Settings>,
        ports: Vec<u16>,
    ) -> Result<(), HelperError> {
        self.change(|wanted| {
            wanted.own = own;
            wanted.ports = ports;
        })
        .await
    }

    /// An interface more, in one step and while flows run.
    pub(super) async fn widen(
        &self,
        number: u32,
        interface: String,
        networks: Vec<IpNet>,
    ) -> Result<(), HelperError> {
        self.change(|wanted| {
            wanted.interfaces.insert(number, (interface, networks));
        })
        .await
    }

    /// Takes it out again: what is behind it is free.
    pub(super) async fn narrow(&self, number: u32) -> Result<(), HelperError> {
        self.change(|wanted| {
            wanted.interfaces.remove(&number);
        })
        .await
    }

    /// The table of a namespace, with the sockets that were made there for it.
    pub(super) async fn enter(
        &self,
        number: u32,
        settings: inside::Settings,
        sockets: Vec<OwnedFd>,
    ) -> Result<(), HelperError> {
        let mut wanted = self.wanted.lock().await;
        wanted.places.insert(number, settings);
        let Some(settings) = wanted.place(number) else { return Ok(()) };
        let entered = self.helper.lock().await.inside(number, &settings, sockets).await;
        if entered.is_err() {
            wanted.places.remove(&number);
        }
        entered
    }

    /// No longer looks after that table. `free` takes it away; else it refuses on, as nobody's. Says whether it did.
    pub(super) async fn leave(&self, number: u32, free: bool) -> Result<bool, HelperError> {
        let mut wanted = self.wanted.lock().await;
        let looked_after = wanted.places.contains_key(&number);
        if looked_after {
            self.helper.lock().await.leave(number, free).await?;
            wanted.places.remove(&number);
        }
        Ok(looked_after)
    }

    /// What the helper refuses is not wanted any longer.
    async fn change(&self, change: impl FnOnce(&mut Wanted)) -> Result<(), HelperError> {
        let mut wanted = self.wanted.lock().await;
        let mut next = wanted.clone();
        change(&mut next);
        let mut helper = self.helper.lock().await;
        if let Some(tables) = next.tables().filter(|tables| Some(tables) != wanted.tables().as_ref()) {
            helper.apply(&tables).await?;
        }
        if next.ports != wanted.ports {
            for number in next.places.keys() {
                if let Some(settings) = next.place(*number) {
                    helper.inside(*number, &settings, Vec::new()).await?;
                }
            }
        }
        *wanted = next;
        Ok(())
    }

    /// Keeps readiness true to the tables. Ends when the helper is gone or answers no more: nobody without rights can
    /// start another.
    pub(super) async fn watch(self: Arc<Self>, readiness: Arc<Readiness>) {
        let mut stood = true;
        loop {
            tokio::time::sleep(LOOK).await;
            let has_own = self.wanted.lock().await.own.is_some();
            let (stand, problem) = match self.helper.lock().await.verify().await {
                Ok(report) => judged(report, has_own),
                Err(error @ (HelperError::Gone | HelperError::Broken)) => {
                    readiness.tables_stand(false);
                    return tracing::error!("{error}");
                }
                Err(error) => (false, Some(error.to_string())),
            };
            readiness.tables_stand(stand);
            if stood && !stand {
                let problem = problem.unwrap_or_else(|| "somebody changed them".to_owned());
                tracing::error!("the nftables tables are not as they should be: {problem}");
            }
            stood = stand;
        }
    }
}

/// Are the tables in force, the gate's own (if it has some) and those inside namespaces; and if not, why.
fn judged(report: Report, has_own: bool) -> (bool, Option<String>) {
    if let Some(rival) = report.rivals.first().filter(|_| has_own) {
        let why = format!(
            "the chain {rival} takes connections before the redirect does; {}",
            steer::live::RIVAL_REMEDY
        );
        return (false, Some(why));
    }
    let stand = (report.intact || !has_own) && report.inside.is_none();
    (stand, report.problem.or(report.inside))
}
