//! The engine with its limits, and one call of a hook under them.

use super::{Decision, Failure, FailureKind, Settings, functions, message, request, response};
use rhai::{
    AST, CallFnOptions, Dynamic, Engine, EvalAltResult, FuncArgs, ImmutableString, OptimizationLevel, Scope,
};
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// A reason stands in a record and on a page.
pub(super) const REASON_MOST: usize = 200;

/// Expressions inside each other; the parser and the interpreter take stack for each.
const EXPRESSION_DEPTH: usize = 32;
const FUNCTIONS_MOST: usize = 128;

/// Steps between two looks at the clock.
const STEPS_PER_LOOK: u64 = 16;

/// Keywords that Rhai knows without any package. Most would fail anyway; a script that names one is refused at load.
const FORBIDDEN: &[&str] = &[
    "eval",
    "Fn",
    "call",
    "curry",
    "print",
    "debug",
    "is_def_fn",
    "is_def_var",
    "is_shared",
    "import",
    "export",
];

/// The value of a decision inside a script; scripts can make one by the four functions only.
#[derive(Clone)]
struct Answer(Decision);

thread_local! {
    /// The call that runs on this thread. The engine is shared and its callbacks are given no context.
    static CURRENT: RefCell<Current> = const { RefCell::new(Current { deadline: None, denied: None }) };
}

struct Current {
    deadline: Option<Instant>,
    /// The reason of the first `deny` that was called, whether or not its value is returned.
    denied: Option<String>,
}

pub(super) fn engine(settings: &Settings) -> Engine {
    let mut engine = Engine::new_raw();
    engine
        .set_max_operations(settings.operations.max(1))
        .set_max_call_levels(settings.call_levels.max(1))
        .set_max_string_size(settings.string_bytes.max(1))
        .set_max_array_size(settings.array_items.max(1))
        .set_max_map_size(settings.map_entries.max(1))
        .set_max_variables(settings.variables.max(1))
        .set_max_functions(FUNCTIONS_MOST)
        .set_max_expr_depths(EXPRESSION_DEPTH, EXPRESSION_DEPTH)
        .set_allow_anonymous_fn(false)
        .set_strict_variables(true)
        .set_fail_on_invalid_map_property(true)
        // Folding would hide calls from the checks at load.
        .set_optimization_level(OptimizationLevel::None);
    for symbol in FORBIDDEN {
        engine.disable_symbol(*symbol);
    }
    engine.on_progress(|steps| {
        let is_over =
            || CURRENT.with_borrow(|c| c.deadline.is_some_and(|deadline| Instant::now() > deadline));
        (steps % STEPS_PER_LOOK == 0 && is_over()).then_some(Dynamic::UNIT)
    });
    engine.register_type_with_name::<Answer>("Decision");
    engine.register_fn("pass", || Answer(Decision::Pass));
    engine.register_fn("allow", || Answer(Decision::Allow));
    engine.register_fn("tunnel", || Answer(Decision::Tunnel));
    engine.register_fn("deny", |reason: ImmutableString| {
        let reason = one_line(&reason, REASON_MOST);
        CURRENT.with_borrow_mut(|current| {
            current.denied.get_or_insert_with(|| reason.clone());
        });
        Answer(Decision::Deny(reason))
    });
    functions::register(&mut engine);
    request::register(&mut engine);
    response::register(&mut engine);
    message::register(&mut engine);
    engine
}

/// Calls a hook. A `deny` that was called counts, also when its value was lost: `if bad { deny("..") } pass()` is
/// easily written and must not let the request through.
pub(super) fn call(
    engine: &Engine,
    wall_time: Duration,
    ast: &AST,
    hook: &str,
    arguments: impl FuncArgs,
) -> Result<Decision, Failure> {
    CURRENT.set(Current { deadline: Some(Instant::now() + wall_time), denied: None });
    let options = CallFnOptions::new().eval_ast(false).rewind_scope(false);
    let outcome = engine.call_fn_with_options::<Dynamic>(options, &mut Scope::new(), ast, hook, arguments);
    let denied = CURRENT.replace(Current { deadline: None, denied: None }).denied;
    let value = outcome.map_err(|error| failure(&error))?;
    if let Some(reason) = denied {
        return Ok(Decision::Deny(reason));
    }
    let type_name = value.type_name();
    let not_a_decision = || Failure {
        kind: FailureKind::NotADecision,
        message: format!(" {hook}() returned {type_name}, not pass(), allow(), deny(reason) or tunnel()"),
    };
    Ok(value.try_cast::<Answer>().ok_or_else(not_a_decision)?.0)
}

/// An error that a function of ours gives to a script.
pub(super) fn refuse(message: impl Into<String>) -> Box<EvalAltResult> {
    EvalAltResult::ErrorRuntime(message.into().into(), rhai::Position::NONE).into()
}

fn failure(error: &EvalAltResult) -> Failure {
    let inner = error.unwrap_inner();
    let kind = match inner {
        EvalAltResult::ErrorTerminated(..) => FailureKind::Timeout,
        EvalAltResult::ErrorTooManyOperations(_) => FailureKind::Operations,
        EvalAltResult::ErrorTooManyVariables(_)
        | EvalAltResult::ErrorStackOverflow(_)
        | EvalAltResult::ErrorDataTooLarge(..) => FailureKind::Limit,
        _ => FailureKind::Error,
    };
    let text = match inner {
        EvalAltResult::ErrorTerminated(..) => "it ran longer than its time".to_owned(),
        EvalAltResult::ErrorRuntime(value, _) if value.is_string() => value.to_string(),
        // An index or a value that was thrown may be text of the request.
        EvalAltResult::ErrorIndexNotFound(..) => "there is no such index".to_owned(),
        EvalAltResult::ErrorPropertyNotFound(..) => "the map has no such entry".to_owned(),
        EvalAltResult::ErrorRuntime(value, _) => format!("it threw {}", value.type_name()),
        other => without_position(other),
    };
    let position = inner.position();
    let place = match (position.line(), position.position()) {
        (Some(line), Some(column)) => format!("{line}:{column}: "),
        (Some(line), None) => format!("{line}: "),
        _ => " ".to_owned(),
    };
    Failure { kind, message: format!("{place}{}", one_line(&text, REASON_MOST)) }
}

/// Rhai ends its texts with ` (line 1, position 2)`.
fn without_position(error: &EvalAltResult) -> String {
    let text = error.to_string();
    match text.rfind(" (line ") {
        Some(at) => text.get(..at).unwrap_or_default().to_owned(),
        None => text,
    }
}

/// At most `most` bytes, control characters replaced.
fn one_line(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len().min(most));
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if out.len() + c.len_utf8() > most {
            break;
        }
        out.push(c);
    }
    out
}
