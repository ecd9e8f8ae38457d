//! What is checked of a script when it is loaded, so that a mistake is found by the operator and not by a request.

use super::functions;
use rhai::{AST, ASTNode, Engine, Expr, FnCallExpr, ParseErrorType, Position, Stmt};
use std::collections::{BTreeMap, BTreeSet};

const SOURCE_MOST: usize = 256 * 1024;

const HOOKS: &str = "the hooks are connect(flow), request(req), response(req, resp) and message(ws)";

/// The hooks that a script has.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hooks {
    pub connect: bool,
    pub request: bool,
    pub response: bool,
    pub message: bool,
}

/// One fault and where.
pub(super) struct Problem {
    pub message: String,
    pub position: Position,
}

pub(super) fn parse(engine: &Engine, text: &str) -> Result<AST, Problem> {
    let problem = |message: String, position| Problem { message, position };
    if text.len() > SOURCE_MOST {
        return Err(problem(format!("the script is longer than {} KiB", SOURCE_MOST / 1024), Position::NONE));
    }
    let ast = engine.compile(text).map_err(|error| match *error.0 {
        ParseErrorType::Reserved(name) => problem(unavailable(&name), error.1),
        ParseErrorType::BadInput(rhai::LexError::ImproperSymbol(name, why))
            if why.contains("is disabled") =>
        {
            problem(unavailable(&name), error.1)
        }
        kind => problem(kind.to_string(), error.1),
    })?;
    match ast.statements().first() {
        // Functions do not see what stands outside of them, so it could only mislead.
        Some(statement) => Err(problem(
            "only functions can stand here; put constants inside them".to_owned(),
            statement.position(),
        )),
        None => Ok(ast),
    }
}

/// Finds the hooks, and everything that could not work: calls of functions that are not there, functions that nobody
/// calls (a hook with a wrong name among them), hooks that take something else than they are given.
pub(super) fn hooks(ast: &AST) -> Result<Hooks, Problem> {
    let mut hooks = Hooks::default();
    let mut defined: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for function in ast.iter_fn_def() {
        defined.entry(&function.name).or_default().push(function.params.len());
    }
    let called = calls(ast, &defined)?;
    for function in ast.iter_fn_def() {
        let (name, parameters) = (function.name.as_str(), function.params.len());
        let fault = |message: String| Err(Problem { message, position: function.body.start_position() });
        match (name, parameters) {
            _ if function.this_type.is_some() => {
                return fault(format!("{name}: a function cannot belong to a type"));
            }
            ("connect", 1) => hooks.connect = true,
            ("request", 1) => hooks.request = true,
            ("response", 2) => hooks.response = true,
            ("message", 1) => hooks.message = true,
            ("connect", _) => return fault("the hook is connect(flow)".to_owned()),
            ("request", _) => return fault("the hook is request(req)".to_owned()),
            ("response", _) => return fault("the hook is response(req, resp)".to_owned()),
            ("message", _) => return fault("the hook is message(ws)".to_owned()),
            ("dns", _) => {
                return fault(format!("the hook {name} does not exist yet; {HOOKS}"));
            }
            _ if functions::NAMES.contains(&name) => {
                return fault(format!("{name} is a function of Outgate; choose another name"));
            }
            _ if !called.contains(name) => {
                return fault(format!("nothing calls {name}; {HOOKS}"));
            }
            _ => {}
        }
    }
    if !(hooks.connect || hooks.request || hooks.response || hooks.message) {
        let message = format!("there is no hook; {HOOKS}");
        return Err(Problem { message, position: Position::NONE });
    }
    Ok(hooks)
}

/// The names of the script's own functions that are called.
fn calls(ast: &AST, defined: &BTreeMap<&str, Vec<usize>>) -> Result<BTreeSet<String>, Problem> {
    let mut called = BTreeSet::new();
    let mut fault = None;
    ast.walk(&mut |path: &[ASTNode]| {
        let Some((call, position)) = path.last().and_then(called_function) else { return true };
        let name = call.name.as_str();
        let message = match defined.get(name) {
            Some(parameters) if parameters.contains(&call.args.len()) => {
                called.insert(name.to_owned());
                return true;
            }
            _ if functions::NAMES.contains(&name) => return true,
            Some(_) => format!("{name} does not take {} arguments", call.args.len()),
            None => unavailable(name),
        };
        fault = Some(Problem { message, position });
        false
    });
    match fault {
        Some(problem) => Err(problem),
        None => Ok(called),
    }
}

/// A call in any of the forms that the parser gives it; operators are calls too and are left out.
fn called_function<'a>(node: &ASTNode<'a>) -> Option<(&'a FnCallExpr, Position)> {
    let (call, position) = match node {
        ASTNode::Expr(Expr::FnCall(call, position) | Expr::MethodCall(call, position)) => (call, position),
        ASTNode::Stmt(Stmt::FnCall(call, position)) => (call, position),
        _ => return None,
    };
    call.op_token.is_none().then_some((call, *position))
}

fn unavailable(name: &str) -> String {
    match name {
        "ask" => "ask() needs approvals, which do not exist yet; use deny(reason)".to_owned(),
        "print" | "debug" => format!("{name} is not available: a script has no output but its decision"),
        "eval" | "Fn" | "call" | "curry" | "import" | "export" => {
            format!("{name} is not available: a script runs nothing but what is in its file")
        }
        _ => format!("{name} is not available in scripts"),
    }
}

#[cfg(test)]
mod tests {
    use crate::script::tests::{compile, compile_error, failure};

    #[test]
    fn faults_have_a_place() {
        let error = compile("fn request(req) {\n  let x = ;\n  pass()\n}").unwrap_err();
        assert_eq!((error.line, error.column), (2, 11));
        let text = compile_error("fn request(req) {\n  ask(\"x\")\n}");
        assert!(text.starts_with("test.rhai:2:3: ask() needs approvals"), "{text}");
        let text =
            compile_error("fn request(req) {\n  let x = req.path;\n  x.repalce(\"a\", \"b\");\n pass() }");
        assert_eq!(text, "test.rhai:3:5: repalce is not available in scripts");
        assert!(compile_error("fn request(req) { y == 1 }").contains("y"));
    }

    #[test]
    fn a_guard_that_would_never_be_asked_is_an_error() {
        for (text, part) in [
            ("", "there is no hook"),
            ("fn requst(req) { pass() }", "nothing calls requst"),
            ("fn request(req) { pass() } fn on_response(a, b) { pass() }", "nothing calls on_response"),
            ("fn request(req) { pass() } fn dns(query) { pass() }", "does not exist yet"),
            ("fn request(req) { pass() } fn message(ws, more) { pass() }", "the hook is message(ws)"),
            ("fn request(req, resp) { pass() }", "the hook is request(req)"),
            ("fn response(resp) { pass() }", "the hook is response(req, resp)"),
            ("fn connect() { pass() }", "the hook is connect(flow)"),
            ("fn request(req) { pass() } fn deny(x) { pass() }", "function of Outgate"),
            ("fn request(req) { help(1, 2) } fn help(a) { pass() }", "does not take 2 arguments"),
            ("const X = 1; fn request(req) { pass() }", "only functions"),
            ("pass()", "only functions"),
            ("fn request(req) { pass() ", "test.rhai:1:"),
        ] {
            let error = compile_error(text);
            assert!(error.contains(part), "{text}: {error}");
        }
        let long = format!("fn request(req) {{ pass() }} //{}", "x".repeat(300 * 1024));
        assert!(compile_error(&long).contains("longer than 256 KiB"));
    }

    #[test]
    fn a_failure_says_where_and_not_what_was_in_the_request() {
        let failed = failure("let x = #{};\nx[req.header(\"accept\")]");
        assert!(failed.message.starts_with("test.rhai:3:"), "{failed}");
        assert!(!failed.message.contains("json"), "{failed}");
        assert_eq!(failure("throw \"so\"").message, "test.rhai:2:1: so");
        assert_eq!(failure("throw 3").message, "test.rhai:2:1: it threw i64");
        assert_eq!(
            failure("").message,
            "test.rhai: request() returned (), not pass(), allow(), deny(reason) or tunnel()"
        );
    }
}
