//! The house keeps its order: `src/lib.rs` prints the modules top to bottom, and a module names only those below it.
//!
//! Every file says first what it is for, and none is longer than a person reads at once (STYLE, points 6 and 16).
#![expect(clippy::unwrap_used, reason = "a test that stops is a test that failed")]

use std::path::{Path, PathBuf};

const MOST_LINES: usize = 500;

/// The modules as `src/lib.rs` prints them, top first.
fn layers() -> Vec<String> {
    let lib = std::fs::read_to_string(source("lib.rs")).unwrap();
    let names = lib
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';').map(str::to_owned));
    names.collect()
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name)
}

/// Every Rust file below `dir`, with its text.
fn files(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    files(&source(""), &mut found);
    assert!(found.len() > layers().len(), "the sources are where they are looked for");
    found
}

/// The modules of this crate that a source names by `crate::`, comments left out.
fn named(text: &str) -> Vec<String> {
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or("").to_owned() + "\n").collect();
    let mut names = Vec::new();
    for (place, word) in code.match_indices("crate::") {
        // `$crate::` of a macro is this crate too; `some_crate::` is another's name.
        if code[..place].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
            continue;
        }
        let after = &code[place + word.len()..];
        match after.strip_prefix('{') {
            Some(group) => names.extend(first_words(group)),
            None => names.push(word_at(after)),
        }
    }
    names
}

fn word_at(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

/// The first word of each member of a use group, whose opening brace is already read.
fn first_words(group: &str) -> Vec<String> {
    let (mut depth, mut member, mut words) = (0, String::new(), Vec::new());
    for letter in group.chars() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => words.push(word_at(std::mem::take(&mut member).trim())),
            _ => {}
        }
        if depth == 0 && letter != ',' {
            member.push(letter);
        }
    }
    words.push(word_at(member.trim()));
    words.retain(|word| !word.is_empty());
    words
}

/// Which printed module a file belongs to; `lib.rs` and the binaries' files stand above all.
fn layer_of(path: &Path) -> Option<String> {
    let inside = path.strip_prefix(source("")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    let name = first.trim_end_matches(".rs").to_owned();
    (!["lib", "main", "init"].contains(&name.as_str())).then_some(name)
}

#[test]
fn a_module_names_only_modules_printed_below_it() {
    let layers = layers();
    let height = |name: &str| layers.iter().position(|layer| layer == name);
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(own) = layer_of(&path) else { continue };
        let Some(place) = height(&own) else {
            wrong.push(format!("{}: {own} is not printed in lib.rs", path.display()));
            continue;
        };
        let above = named(&text).into_iter().filter(|name| height(name).is_some_and(|other| other < place));
        wrong.extend(
            above.map(|name| format!("{}: {own} names {name}, which stands above it", path.display())),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_first_what_it_is_for_and_is_short() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if !text.starts_with("//!") {
            wrong.push(format!("{}: no module doc at the top", path.display()));
        }
        let lines = text.lines().count();
        if lines > MOST_LINES {
            wrong.push(format!("{}: {lines} lines, more than {MOST_LINES}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_this_test_sees_every_way_to_name_a_module() {
    let text = "use crate::base::Host;\nuse crate::{audit, policy::{Rule, Verdict}, rt::Tasks};\n\
                // crate::cli is only spoken of\nfn f() { crate::net::dial(); other_crate::daemon(); }\n";
    assert_eq!(named(text), ["base", "audit", "policy", "rt", "net"]);
}
