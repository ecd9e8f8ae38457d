//! One exchange: judge, rewrite, scripts, DLP, credentials, send, redact, answer.
