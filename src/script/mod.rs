//! Scripts: hooks in Rhai that a rule may add, with hard limits and nothing in reach but the view they are given.
//!
//! A script narrows what its rule gives; every failure is a deny. `policy` compiles scripts into its snapshot,
//! `pipeline` and `flow` call the hooks and judge again what a hook changed. Rhai is named in this room only.
//! `docs/scripts.md` is the reference for people who write scripts.
//!
//! What keeps a script in: an engine without packages, so that it has only the functions of `functions` and `views`
//! (none of which is unbounded), limits on operations, depth, sizes and wall time, a fresh scope for each call, and
//! views that are built before credentials are put in.

mod check;
mod functions;
mod message;
mod request;
mod response;
mod run;
mod view;

#[cfg(test)]
mod examples;
#[cfg(test)]
mod tests;

pub use message::{MessageView, Way};
pub use request::{Changes, FlowView, RequestView};
pub use response::ResponseView;

use rhai::{AST, Dynamic};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Limits of one call of a hook. Zero counts as one: nothing is unlimited.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Steps of the interpreter.
    pub operations: u64,
    /// Functions of the script calling each other.
    pub call_levels: usize,
    /// Any text, those of the view included.
    pub string_bytes: usize,
    pub array_items: usize,
    pub map_entries: usize,
    /// A WebSocket message that is held until its hook has spoken; a longer one is denied.
    pub message_bytes: usize,
    /// Variables at one time.
    pub variables: usize,
    pub wall_time: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // A hook takes tens of steps; 20,000 are about 1 ms, 3 with long texts.
            operations: 20_000,
            call_levels: 16,
            // Longer than any header that a check reads; the slowest function takes under 1 ms on it.
            string_bytes: 4096,
            array_items: 256,
            map_entries: 128,
            // What chat and remote calls send is shorter; each direction of each such WebSocket may hold one.
            message_bytes: 64 * 1024,
            variables: 64,
            // Ends what many slow functions add up to. A hook holds its thread, so other flows wait this long at most.
            wall_time: Duration::from_millis(50),
        }
    }
}

/// Compiles and runs scripts; one a process, shared by all threads.
#[derive(Clone)]
pub struct Engine {
    rhai: Arc<rhai::Engine>,
    wall_time: Duration,
    message_bytes: usize,
}

/// A compiled script.
#[derive(Clone)]
pub struct Script {
    engine: Engine,
    ast: Arc<AST>,
    file: Arc<Path>,
    hooks: check::Hooks,
}

/// What a hook decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing against it; the rest of the chain goes on.
    Pass,
    /// The rule's verdict stands, the rest of the rule's chain is not asked.
    Allow,
    /// No, and why: at most 200 bytes without control characters.
    Deny(String),
    /// Relay it unread; only from `connect`.
    Tunnel,
}

/// A hook that did not decide. The caller denies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: FailureKind,
    /// Where and what, for the record: no text of the request, unless the script throws it.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Wall time.
    Timeout,
    /// Operations: an endless loop ends by these or by time, whichever is first. Records call both `script_timeout`.
    Operations,
    /// Call depth, variables, or a size.
    Limit,
    Error,
    /// It returned something that is none of `pass()`, `allow()`, `deny(reason)`, `tunnel()`.
    NotADecision,
}

/// What a hook made of a message. `view` carries its changes, also when the decision failed.
#[derive(Debug)]
pub struct Ruling<V> {
    pub decision: Result<Decision, Failure>,
    pub view: V,
    pub changes: Changes,
}

/// Why a script cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}:{column}: {message}", file.display())]
pub struct CompileError {
    pub file: PathBuf,
    pub line: usize,
    pub column: usize,
    pub message: String,
}

impl Engine {
    pub fn new(settings: Settings) -> Self {
        let message_bytes = settings.message_bytes.max(1);
        Self { rhai: Arc::new(run::engine(&settings)), wall_time: settings.wall_time, message_bytes }
    }

    /// Compiles a script and checks that it has a hook, that every function it calls is there, and that nothing in it
    /// is dead: a guard that is never asked looks like one that is.
    pub fn compile(&self, file: &Path, text: &str) -> Result<Script, CompileError> {
        let located = |problem: check::Problem| CompileError {
            file: file.to_path_buf(),
            line: problem.position.line().unwrap_or(1),
            column: problem.position.position().unwrap_or(1),
            message: problem.message,
        };
        let ast = check::parse(&self.rhai, text).map_err(located)?;
        let hooks = check::hooks(&ast).map_err(located)?;
        Ok(Script { engine: self.clone(), ast: Arc::new(ast), file: file.into(), hooks })
    }
}

impl Script {
    pub fn has_connect(&self) -> bool {
        self.hooks.connect
    }

    pub fn has_request(&self) -> bool {
        self.hooks.request
    }

    pub fn has_response(&self) -> bool {
        self.hooks.response
    }

    pub fn has_message(&self) -> bool {
        self.hooks.message
    }

    /// The longest message that the hook is asked about.
    pub fn message_most(&self) -> usize {
        self.engine.message_bytes
    }

    /// Asked once a connection, when its destination is known. A script without the hook passes; so for all hooks.
    pub fn connect(&self, flow: FlowView) -> Result<Decision, Failure> {
        match self.hooks.connect {
            true => self.call("connect", [request::flow_value(flow)]),
            false => Ok(Decision::Pass),
        }
    }

    /// Asked of each request under the rule, before credentials are put in. What it changed has to be judged again.
    pub fn request(&self, view: RequestView) -> Ruling<RequestView> {
        if !self.hooks.request {
            return Ruling { decision: Ok(Decision::Pass), view, changes: Changes::default() };
        }
        let handle = view::Handle::writable(view);
        let decision = self.call("request", [Dynamic::from(handle.clone())]);
        let (view, changes) = handle.take();
        Ruling { decision, view, changes }
    }

    /// Asked of each response head; `request` is what was sent without the credentials, and cannot be changed any more.
    pub fn response(&self, request: RequestView, view: ResponseView) -> Ruling<ResponseView> {
        if !self.hooks.response {
            return Ruling { decision: Ok(Decision::Pass), view, changes: Changes::default() };
        }
        let request = Dynamic::from(view::Handle::read_only(request));
        let handle = view::Handle::writable(view);
        let decision = self.call("response", [request, Dynamic::from(handle.clone())]);
        let (view, changes) = handle.take();
        Ruling { decision, view, changes }
    }

    /// Asked of each message of a WebSocket, before it goes on.
    pub fn message(&self, view: MessageView) -> Result<Decision, Failure> {
        match self.hooks.message {
            true => self.call("message", [message::value(view)]),
            false => Ok(Decision::Pass),
        }
    }

    fn call<const N: usize>(&self, hook: &str, arguments: [Dynamic; N]) -> Result<Decision, Failure> {
        let decided = run::call(&self.engine.rhai, self.engine.wall_time, &self.ast, hook, arguments);
        let decided = decided.and_then(|decision| match decision {
            Decision::Tunnel if hook != "connect" => Err(Failure {
                kind: FailureKind::NotADecision,
                message: format!(" {hook}() returned tunnel(), which only connect() can"),
            }),
            other => Ok(other),
        });
        decided.map_err(|failure| {
            let file = self.file.file_name().unwrap_or_default().to_string_lossy();
            Failure { message: format!("{file}:{}", failure.message), ..failure }
        })
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Engine")
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("file", &self.file).field("hooks", &self.hooks).finish()
    }
}
