//! Workloads that come and go while the gate runs: an interface or a bridge of the gate's own namespace, or another
//! namespace with the gate's listeners in it. Each belongs to one client of the policy, by where it is and not by its
//! addresses, which another may have as well.
//!
//! ```text
//! outgate attach (root) -> enter   sockets made in the namespace      -> admin socket -> Attachments
//! a start with rights   -> state   the same for what was attached before              -> Attachments
//! Attachments  doors opened, then the tables in the kernel, then remembered
//! ```
//! Detaching closes the doors and leaves the tables: nothing leaves. `--free` takes them away.

mod cuts;
pub mod enter;
mod interface;
pub mod state;

pub(super) use cuts::Cut;
pub(crate) use cuts::Cuts;

use super::Running;
use super::serve::{self, until};
use super::steering::Steering;
use crate::admin::{Attachment, Change, Detach, Namespace, Place};
use crate::audit::{Event, Text};
use crate::base::{Door, Ingress};
use crate::config::Config;
use crate::net::{self, BoundDns, BoundTcp, BoundUdp};
use crate::rt::Tasks;
use arc_swap::ArcSwap;
use state::State;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// The helper looks after no more namespaces.
const MOST: usize = 128;
const MOST_NAME_BYTES: usize = 64;
/// How often it is looked whether what is attached is there still.
const LOOK: Duration = Duration::from_secs(2);
/// For the doors of an attachment to close, which takes no time at all.
const CLOSING: Duration = Duration::from_secs(2);

pub(super) struct Attachments {
    running: Arc<Running>,
    config: Arc<Config>,
    steering: Arc<Steering>,
    all: Mutex<All>,
    listed: ArcSwap<Vec<Attachment>>,
}

struct All {
    known: BTreeMap<String, Known>,
    last: u32,
    state: State,
    /// What the file says.
    saved: Vec<Attachment>,
}

struct Known {
    what: Attachment,
    number: u32,
    /// The doors; gone when detached.
    doors: Option<Tasks>,
    process: Option<OwnedFd>,
}

/// A refusal in words for the operator.
type Said = Result<String, String>;

impl Attachments {
    /// Takes up what was attached before.
    pub(super) async fn open(
        running: Arc<Running>,
        config: Arc<Config>,
        steering: Arc<Steering>,
        mut state: State,
    ) -> Arc<Self> {
        let restored = std::mem::take(&mut state.restored);
        let saved = state.restored.iter().map(|(what, _)| what.clone()).collect();
        let all = Mutex::new(All { known: BTreeMap::new(), last: 0, state, saved });
        let opened = Arc::new(Self { running, config, steering, all, listed: ArcSwap::default() });
        let mut all = opened.all.lock().await;
        for (number, (what, files)) in (1..).zip(restored) {
            all.last = number;
            let name = what.name.clone();
            let Err(why) = opened.take_up(&mut all, number, what.clone(), files).await else { continue };
            tracing::error!("attachment {name} is not taken up again: {why}");
            // An interface that is missing may come back, and stays fenced.
            if let Place::Interface { .. } = what.place {
                let detached = Attachment { detached: true, ..what };
                if let Err(why) = opened.take_up(&mut all, number, detached, Vec::new()).await {
                    tracing::error!("attachment {name}: {why}");
                }
            }
        }
        // It still says more than is there, which lets nothing out.
        let _ = opened.remember(&mut all);
        opened.list_all(&all);
        drop(all);
        opened
    }

    pub(super) fn list(&self) -> Vec<Attachment> {
        self.listed.load().to_vec()
    }

    pub(super) async fn change(&self, change: Change) -> Said {
        let mut all = self.all.lock().await;
        let said = match change {
            Change::Attach(what, files) => self.attach(&mut all, what, files).await,
            Change::Detach(Detach { name, free }) => {
                let said = self.detach(&mut all, &name, free).await;
                let saved = self.remember(&mut all);
                said.and_then(|said| saved.map(|()| said))
            }
        };
        self.list_all(&all);
        said
    }

    async fn attach(&self, all: &mut All, mut what: Attachment, files: Vec<OwnedFd>) -> Said {
        let fits =
            (1..=MOST_NAME_BYTES).contains(&what.name.len()) && what.name.chars().all(|c| !c.is_control());
        if !fits {
            return Err(format!("a name has 1 to {MOST_NAME_BYTES} bytes and no control characters"));
        }
        if !self.running.gate.shared.snapshot.load().may_attach(&what.client) {
            return Err(format!(
                "the policy has no client {:?} with attached = true; add [[client]] name = {:?}, attached = true",
                what.client, what.client
            ));
        }
        what.detached = false;
        // The interface of one that is attached again stays fenced in under its number.
        let mut number = None;
        match all.known.get(&what.name) {
            Some(known) if !known.what.detached => {
                return Err(format!(
                    "{:?} is attached already; detach it first, or give this one a --name",
                    what.name
                ));
            }
            Some(known) if !same(&known.what.place, &what.place) => {
                return Err(format!(
                    "{:?} is detached and fences in {}; free it first: outgate detach --free {}",
                    what.name, known.what.place, what.name
                ));
            }
            // It is to be attached again: its old table makes room, and refuses until the new one is there.
            Some(known) => {
                self.steering.leave(known.number, false).await.map_err(|error| error.to_string())?;
                number = matches!(what.place, Place::Interface { .. }).then_some(known.number);
            }
            None if all.known.len() >= MOST => {
                return Err(format!(
                    "{MOST} workloads are attached; free one of them first (outgate detach --free)"
                ));
            }
            None => {}
        }
        let number = number.unwrap_or_else(|| {
            all.last = all.last.wrapping_add(1);
            all.last
        });
        let (name, client) = (what.name.clone(), what.client.clone());
        let before = all.known.remove(&name);
        if let Err(why) = self.take_up(all, number, what, files).await {
            if let Some(before) = before {
                all.known.insert(name, before);
                self.assign(all);
            }
            return Err(why);
        }
        if let Err(why) = self.remember(all) {
            return Err(format!("{why}; {}", self.undo(all, &name, before.is_some()).await));
        }
        let place = all.known.get(&name).map(|known| known.what.place.to_string()).unwrap_or_default();
        self.note("attach", &name, &client, &place);
        Ok(format!("{name} is attached: {place}, as client {client}"))
    }

    /// Takes back what a restart would not know of. What was fenced in before stays so.
    async fn undo(&self, all: &mut All, name: &str, fenced: bool) -> String {
        if let Some(known) = all.known.get_mut(name) {
            known.what.detached = true;
        }
        self.close(all, name).await;
        if fenced {
            return format!("{name} is detached and still fenced in");
        }
        match self.free(all, name).await {
            Ok(()) => format!("{name} is not attached"),
            Err(why) => why,
        }
    }

    /// Opens an attachment's doors and then puts its tables into place; all of it, or nothing.
    async fn take_up(
        &self,
        all: &mut All,
        number: u32,
        mut what: Attachment,
        files: Vec<OwnedFd>,
    ) -> Result<(), String> {
        let doors = Tasks::new();
        let ingress =
            Ingress::Attached { name: what.name.as_str().into(), client: what.client.as_str().into() };
        self.running.cuts.lock().insert(what.name.as_str().into(), doors.drain_signal());
        let holder = all.known.values().find(|known| same(&known.what.place, &what.place));
        let opened = match &mut what.place {
            place if holder.is_some() => {
                let holder = holder.map(|known| known.what.name.as_str()).unwrap_or_default();
                Err(format!("{place} belongs to the attachment {holder:?} (outgate attach --list)"))
            }
            Place::Interface { interface, networks } => {
                self.open_interface(number, interface, networks, &doors, &ingress, what.detached).await
            }
            Place::Namespace(namespace) => {
                self.open_namespace(number, namespace, files, &doors, &ingress, what.detached).await
            }
        };
        match opened {
            Ok(process) => {
                let doors = (!what.detached).then_some(doors);
                if doors.is_none() {
                    self.running.cuts.lock().remove(what.name.as_str());
                }
                all.known.insert(what.name.clone(), Known { what, number, doors, process });
                self.assign(all);
                Ok(())
            }
            Err(why) => {
                self.running.cuts.lock().remove(what.name.as_str());
                doors.drain(CLOSING, Duration::ZERO).await;
                self.assign(all);
                Err(why)
            }
        }
    }

    async fn open_namespace(
        &self,
        number: u32,
        namespace: &Namespace,
        files: Vec<OwnedFd>,
        doors: &Tasks,
        ingress: &Ingress,
        detached: bool,
    ) -> Result<Option<OwnedFd>, String> {
        if enter::identity_of("/proc/self/ns/net".as_ref()).is_ok_and(|own| own == namespace.identity) {
            return Err("that is the gate's own namespace: attach an interface or a bridge of it".to_owned());
        }
        let short = || "files are missing from the request".to_owned();
        let mut files = files.into_iter();
        let sockets: Vec<_> = files.by_ref().take(2).collect();
        let process = match namespace.pid {
            Some(_) => Some(files.next().ok_or_else(short)?),
            None => None,
        };
        if !detached {
            for _ in 0..namespace.families {
                let (Some(tcp), Some(udp), Some(dns)) = (files.next(), files.next(), files.next()) else {
                    return Err(short());
                };
                let adopted = || -> std::io::Result<(BoundTcp, BoundDns)> {
                    let dns = BoundDns { udp: net::adopt_udp(udp, None)?, tcp: net::adopt_tcp(dns, None)? };
                    Ok((net::adopt_tcp(tcp, None)?, dns))
                };
                let (tcp, dns) = adopted().map_err(|error| format!("the sockets are not usable: {error}"))?;
                self.serve_tcp(tcp, doors, ingress)?;
                self.serve_dns(dns, doors, ingress)?;
            }
        }
        let entered = self.steering.enter(number, enter::settings(namespace), sockets).await;
        entered.map_err(|error| error.to_string())?;
        Ok(process)
    }

    fn serve_tcp(&self, bound: BoundTcp, doors: &Tasks, ingress: &Ingress) -> Result<(), String> {
        let gate = &self.running.gate;
        let listener =
            bound.listen_for(ingress.clone(), gate.own.clone()).map_err(|error| error.to_string())?;
        let accepting = serve::accept(self.running.clone(), listener, Door::Transparent);
        doors.spawn("door", until(gate.tasks.drain_signal(), until(doors.drain_signal(), accepting)));
        Ok(())
    }

    fn serve_dns(&self, bound: BoundDns, doors: &Tasks, ingress: &Ingress) -> Result<(), String> {
        let door = serve::dns_door(&self.running, &self.config, bound, ingress.clone());
        let serving = door.map_err(|error| error.to_string())?.serve();
        let gate = &self.running.gate;
        doors.spawn("dns", until(gate.tasks.drain_signal(), until(doors.drain_signal(), serving)));
        Ok(())
    }

    fn serve_quic(&self, bound: BoundUdp, doors: &Tasks, ingress: &Ingress) -> Result<(), String> {
        let door = serve::quic_door(&self.running, bound, ingress.clone());
        let serving = door.map_err(|error| error.to_string())?.serve();
        let gate = &self.running.gate;
        doors.spawn("quic", until(gate.tasks.drain_signal(), until(doors.drain_signal(), serving)));
        Ok(())
    }

    async fn detach(&self, all: &mut All, name: &str, free: bool) -> Said {
        let Some(known) = all.known.get_mut(name) else {
            return Err(format!("nothing of the name {name:?} is attached (outgate attach --list)"));
        };
        if known.what.detached && !free {
            return Err(format!("{name:?} is detached already; --free takes its fence away as well"));
        }
        known.what.detached = true;
        let (client, place) = (known.what.client.clone(), known.what.place.to_string());
        self.close(all, name).await;
        if !free {
            self.note("detach", name, &client, &place);
            return Ok(format!(
                "{name} is detached and still fenced in: it reaches nothing. \
                 To let it out unguarded: outgate detach --free {name}"
            ));
        }
        self.free(all, name).await?;
        self.note("free", name, &client, &place);
        Ok(format!("{name} IS FREE: nothing of Outgate stands between it and the network any more"))
    }

    /// Takes the fence of one that is detached away.
    async fn free(&self, all: &mut All, name: &str) -> Result<(), String> {
        let Some(Known { number, what, .. }) = all.known.get(name) else { return Ok(()) };
        let freed = match self.steering.narrow(*number).await {
            Ok(()) => self.steering.leave(*number, true).await,
            Err(error) => Err(error),
        };
        let taken_away = freed.map_err(|error| format!("{name} stays fenced in: {error}"))?;
        if !taken_away && matches!(what.place, Place::Namespace(_)) {
            return Err(format!(
                "{name} stays fenced in: attach it again first, its table is nobody's by now"
            ));
        }
        all.known.remove(name);
        self.assign(all);
        Ok(())
    }

    /// Ends the doors and the flows of an attachment.
    async fn close(&self, all: &mut All, name: &str) {
        self.running.cuts.lock().remove(name);
        if let Some(doors) = all.known.get_mut(name).and_then(|known| known.doors.take()) {
            doors.drain(CLOSING, Duration::ZERO).await;
        }
        self.assign(all);
    }

    /// Whose the attached interfaces are, for what comes in through doors that they share.
    fn assign(&self, all: &All) {
        let assigned = all.known.values().filter_map(|Known { what, .. }| {
            let Place::Interface { interface, .. } = &what.place else { return None };
            let attached =
                Ingress::Attached { name: what.name.as_str().into(), client: what.client.as_str().into() };
            Some((interface.as_str().into(), if what.detached { Ingress::Detached } else { attached }))
        });
        self.running.gate.own.assign(assigned.collect());
    }

    /// Looks for ever whether what is attached is there still.
    pub(super) async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let mut all = self.all.lock().await;
            let gone =
                all.known.values().filter(|known| known.is_gone()).map(|known| known.what.name.clone());
            for name in gone.collect::<Vec<_>>() {
                self.gone(&mut all, &name).await;
            }
        }
    }

    /// Its namespace ends with the last that holds it, which may be us. An interface may come back, and is fenced then.
    async fn gone(&self, all: &mut All, name: &str) {
        self.close(all, name).await;
        let Some(known) = all.known.get_mut(name) else { return };
        known.what.detached = true;
        let (number, client, place) = (known.number, known.what.client.clone(), known.what.place.to_string());
        if let Place::Namespace(_) = &known.what.place {
            all.known.remove(name);
            if let Err(error) = self.steering.leave(number, false).await {
                tracing::warn!("attachment {name}: {error}");
            }
        }
        self.assign(all);
        // It still says more than is there, which lets nothing out.
        let _ = self.remember(all);
        self.list_all(all);
        self.note("attachment_gone", name, &client, &place);
    }

    fn note(&self, event: &'static str, name: &str, client: &str, place: &str) {
        tracing::info!(attachment = name, client, place, "{event}");
        self.running.gate.shared.log.note(&Event {
            event,
            detail: Some(Text::from(place)),
            fields: &[("attachment", Text::from(name)), ("attached_client", Text::from(client))],
        });
    }

    fn remember(&self, all: &mut All) -> Result<(), String> {
        let list: Vec<Attachment> = all.known.values().map(|known| known.what.clone()).collect();
        if all.saved != list {
            all.state.write(&list).map_err(|error| {
                tracing::error!("what is attached cannot be remembered over a restart: {error}");
                format!("what is attached cannot be remembered over a restart: {error}")
            })?;
            all.saved = list;
        }
        Ok(())
    }

    fn list_all(&self, all: &All) {
        self.listed.store(Arc::new(all.known.values().map(|known| known.what.clone()).collect()));
    }
}

/// Whether two are the same workload. A namespace is what it is, by whatever path or process.
fn same(one: &Place, other: &Place) -> bool {
    match (one, other) {
        (Place::Interface { interface, .. }, Place::Interface { interface: other, .. }) => interface == other,
        (Place::Namespace(namespace), Place::Namespace(other)) => namespace.identity == other.identity,
        _ => false,
    }
}

impl Known {
    fn is_gone(&self) -> bool {
        match &self.what.place {
            Place::Interface { interface, .. } => {
                !self.what.detached && nix::net::if_::if_nametoindex(interface.as_str()).is_err()
            }
            Place::Namespace(namespace) => match &self.process {
                Some(process) => enter::has_ended(process.as_fd()),
                None => match enter::identity_of(&namespace.path) {
                    Ok(identity) => identity != namespace.identity,
                    Err(error) => error.kind() == std::io::ErrorKind::NotFound,
                },
            },
        }
    }
}
