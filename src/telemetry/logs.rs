//! The daemon's own log on standard error.
//!
//! Only Outgate's targets follow the level that was asked for. Libraries are held at warnings whatever that level is:
//! their trace output (hyper, h2, rustls) prints headers and key material. No place in the code writes without bound
//! (`sites`).

use super::sites::{Bounded, Sites, WINDOW};
use std::io::{self, Write};
use std::sync::{Arc, OnceLock};
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry;

/// The only targets that a level applies to.
const OUR_TARGET: &str = "outgate";

/// The log is the process's, and so is what was left out of it.
static SITES: OnceLock<Arc<Sites>> = OnceLock::new();

#[derive(Debug, thiserror::Error)]
#[error("logging was set up twice")]
pub struct InitError(#[from] tracing::subscriber::SetGlobalDefaultError);

/// Sends the log to standard error, as text or as one JSON object a line. Once a process.
pub fn init(level: LevelFilter, json: bool) -> Result<(), InitError> {
    let sites = SITES.get_or_init(Arc::default).clone();
    tracing::subscriber::set_global_default(subscriber(level, json, io::stderr, sites))?;
    Ok(())
}

/// Says from time to time how many lines were left out; run by a task of its own until the process ends.
pub async fn tell_what_is_left_out() {
    loop {
        tokio::time::sleep(WINDOW).await;
        if let Some(sites) = SITES.get() {
            sites.tell();
        }
    }
}

fn subscriber<W>(
    level: LevelFilter,
    json: bool,
    to: W,
    sites: Arc<Sites>,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let targets = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target(OUR_TARGET, level);
    let format = fmt::layer().with_ansi(false).with_writer(OneLine(to));
    let base = registry().with(targets).with(Bounded(sites));
    if json { Box::new(base.with(format.json().flatten_event(true))) } else { Box::new(base.with(format)) }
}

/// Makes every event one line of harmless characters, whatever text of a peer it quotes: control characters are written
/// as `\xNN`. An event arrives here in one piece, ended by a newline.
struct OneLine<W>(W);

struct LineWriter<W>(W);

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for OneLine<W> {
    type Writer = LineWriter<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        LineWriter(self.0.make_writer())
    }
}

impl<W: Write> Write for LineWriter<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let mut line = String::with_capacity(text.len() + 1);
        for c in text.chars() {
            if c.is_control()
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            {
                line.extend(c.escape_unicode());
            } else {
                line.push(c);
            }
        }
        line.push('\n');
        self.0.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<u8>>>);

    impl Write for Heard {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(level: LevelFilter, json: bool, speak: impl FnOnce()) -> String {
        log_of(level, json, Arc::default(), speak)
    }

    fn log_of(level: LevelFilter, json: bool, sites: Arc<Sites>, speak: impl FnOnce()) -> String {
        let heard = Heard::default();
        let to = heard.clone();
        tracing::subscriber::with_default(subscriber(level, json, move || to.clone(), sites), speak);
        let bytes = heard.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn cr_16_libraries_say_no_more_than_warnings_at_any_level() {
        for json in [false, true] {
            let text = log(LevelFilter::TRACE, json, || {
                tracing::trace!(target: "hyper::proto::h1", "authorization: K5");
                tracing::debug!(target: "h2::codec", "K5");
                tracing::info!(target: "rustls::client", "K5");
                tracing::warn!(target: "rustls::client", "heard");
                tracing::trace!(target: "outgate::flow", "ours");
            });
            assert!(!text.contains("K5"), "{text}");
            assert!(text.contains("heard") && text.contains("ours"));
        }
    }

    #[test]
    fn a_lower_level_holds_for_everybody() {
        let text = log(LevelFilter::ERROR, false, || {
            tracing::warn!(target: "rustls", "quiet");
            tracing::warn!(target: "outgate", "quiet");
            tracing::error!(target: "outgate", "loud");
        });
        assert!(text.contains("loud") && !text.contains("quiet"));
    }

    #[test]
    fn ht_04_no_place_writes_without_bound_and_what_was_left_out_is_told() {
        for json in [false, true] {
            let sites = Arc::<Sites>::default();
            let text = log_of(LevelFilter::DEBUG, json, sites.clone(), || {
                for n in 0..100_000 {
                    tracing::warn!(target: "h2::proto::ping_pong", n, "a peer's");
                }
                for n in 0..1000 {
                    tracing::error!(target: "outgate::daemon::reload", n, "the operator's");
                    tracing::debug!(target: "outgate::upstream", n, "asked for");
                }
                tracing::warn!(target: "h2::proto::ping_pong", "from elsewhere");
                sites.tell();
                sites.tell();
            });
            let count = |words: &str| text.lines().filter(|line| line.contains(words)).count();
            assert_eq!(count("a peer's"), 20);
            assert_eq!(
                (count("the operator's"), count("asked for"), count("from elsewhere")),
                (1000, 1000, 1)
            );
            assert_eq!(count("lines were left out"), 1, "{text}");
            assert!(text.contains("99980") && text.contains("h2::proto::ping_pong"));
        }
    }

    #[test]
    fn ht_04_what_was_left_out_is_told_of_every_place() {
        macro_rules! from_each {
            ($($place:literal)*) => {
                $(for _ in 0..21 { tracing::warn!(target: concat!("place", $place), "a peer's"); })*
            };
        }
        let sites = Arc::<Sites>::default();
        let text = log_of(LevelFilter::INFO, false, sites.clone(), || {
            from_each!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25);
            sites.tell();
        });
        assert_eq!(text.lines().filter(|line| line.contains("lines were left out")).count(), 25);
    }

    #[test]
    fn a_peer_cannot_write_lines_of_its_own_into_the_log() {
        let text =
            log(LevelFilter::INFO, false, || tracing::info!("name {}", "a\r\nERROR forged\u{1b}[2J\u{2028}"));
        assert_eq!(text.lines().count(), 1);
        assert!(!text.contains('\u{1b}') && !text.contains('\u{2028}'), "{text}");
        let text = log(LevelFilter::INFO, true, || tracing::info!(name = "a\r\nb", "hello"));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["name"], "a\r\nb");
    }
}
