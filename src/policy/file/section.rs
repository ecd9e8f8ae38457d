//! A TOML table while it is read: typed access by key, a place for every value, and a report of each key that nobody
//! asked for. Reading goes on after a problem, so that one run shows all of them.

use super::super::problem::{Lines, Place, Problem, Problems};
use std::cell::RefCell;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What one file's readers share.
pub(super) struct Reader<'a> {
    lines: Lines<'a>,
    problems: RefCell<Problems>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(lines: Lines<'a>) -> Self {
        Self { lines, problems: RefCell::default() }
    }

    pub(super) fn place(&self, span: &Range<usize>) -> Place {
        self.lines.place(span)
    }

    pub(super) fn push(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    pub(super) fn into_problems(self) -> Problems {
        self.problems.into_inner()
    }
}

/// A value with its place.
#[derive(Debug, Clone)]
pub(in crate::policy) struct At<T> {
    pub(in crate::policy) value: T,
    pub(in crate::policy) place: Place,
}

pub(super) struct Section<'r, 'a> {
    pub(super) reader: &'r Reader<'a>,
    table: &'r DeTable<'a>,
    pub(super) place: Place,
    /// How messages call it: `[[rule]]`.
    title: &'static str,
    known: Vec<&'static str>,
}

impl<'r, 'a> Section<'r, 'a> {
    pub(super) fn new(
        reader: &'r Reader<'a>,
        table: &'r DeTable<'a>,
        span: &Range<usize>,
        title: &'static str,
    ) -> Self {
        Self { reader, table, place: reader.place(span), title, known: Vec::new() }
    }

    fn take(&mut self, key: &'static str) -> Option<&'r Spanned<DeValue<'a>>> {
        self.known.push(key);
        self.table.get(key)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(super) fn place_of(&self, key: &str) -> Place {
        self.table.get(key).map_or_else(|| self.place.clone(), |value| self.reader.place(&value.span()))
    }

    fn wrong(&self, value: &Spanned<DeValue<'a>>, key: &str, wanted: &str) {
        let found = value.get_ref().type_str();
        let place = self.reader.place(&value.span());
        self.reader.push(place.problem(format!("{key} has to be {wanted}, not {}", article(found))));
    }

    pub(super) fn required(&mut self, key: &'static str, example: &str) -> Option<At<String>> {
        if !self.has(key) {
            self.known.push(key);
            let message = format!("{} without {key}", self.title);
            self.reader.push(self.place.problem(message).help(format!("add {key} = {example}")));
            return None;
        }
        self.string(key)
    }

    pub(super) fn string(&mut self, key: &'static str) -> Option<At<String>> {
        let value = self.take(key)?;
        match value.get_ref().as_str() {
            Some(text) => Some(At { value: text.to_owned(), place: self.reader.place(&value.span()) }),
            None => {
                self.wrong(value, key, "a string");
                None
            }
        }
    }

    pub(super) fn bool(&mut self, key: &'static str) -> Option<At<bool>> {
        let value = self.take(key)?;
        match value.get_ref().as_bool() {
            Some(flag) => Some(At { value: flag, place: self.reader.place(&value.span()) }),
            None => {
                self.wrong(value, key, "true or false");
                None
            }
        }
    }

    /// A list of strings. `None` where the key is absent.
    pub(super) fn strings(&mut self, key: &'static str) -> Option<Vec<At<String>>> {
        let items = self.list(key, "a list of strings")?;
        let text = |item: &'r Spanned<DeValue<'a>>| match item.get_ref().as_str() {
            Some(text) => Some(At { value: text.to_owned(), place: self.reader.place(&item.span()) }),
            None => {
                self.wrong(item, key, "a list of strings");
                None
            }
        };
        Some(items.into_iter().filter_map(text).collect())
    }

    /// A list of port numbers.
    pub(super) fn ports(&mut self, key: &'static str) -> Option<Vec<At<u16>>> {
        let items = self.list(key, "a list of port numbers")?;
        let port = |item: &'r Spanned<DeValue<'a>>| {
            let number =
                item.get_ref().as_integer().and_then(|i| u16::from_str_radix(i.as_str(), i.radix()).ok());
            match number.filter(|&n| n > 0) {
                Some(value) => Some(At { value, place: self.reader.place(&item.span()) }),
                None => {
                    let place = self.reader.place(&item.span());
                    self.reader.push(place.problem("a port is a number from 1 to 65535"));
                    None
                }
            }
        };
        Some(items.into_iter().filter_map(port).collect())
    }

    fn list(&mut self, key: &'static str, wanted: &str) -> Option<Vec<&'r Spanned<DeValue<'a>>>> {
        let value = self.take(key)?;
        match value.get_ref().as_array() {
            Some(items) => Some(items.iter().collect()),
            None => {
                self.wrong(value, key, wanted);
                None
            }
        }
    }

    pub(super) fn table(&mut self, key: &'static str, title: &'static str) -> Option<Section<'r, 'a>> {
        let value = self.take(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some(Section::new(self.reader, table, &value.span(), title)),
            None => {
                self.wrong(value, key, "a table");
                None
            }
        }
    }

    /// A list of tables: `[[key]]` or `key = [{...}]`.
    pub(super) fn tables(&mut self, key: &'static str, title: &'static str) -> Vec<Section<'r, 'a>> {
        let Some(items) = self.list(key, "a list of tables") else { return Vec::new() };
        let mut tables = Vec::new();
        for item in items {
            match item.get_ref().as_table() {
                Some(table) => tables.push(Section::new(self.reader, table, &item.span(), title)),
                None => self.wrong(item, key, "a list of tables"),
            }
        }
        tables
    }

    /// Every string under the keys of a table that has free keys (`set = { ... }`).
    pub(super) fn string_map(&mut self, key: &'static str) -> Vec<(At<String>, At<String>)> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong(value, key, "a table of strings");
            return Vec::new();
        };
        let mut pairs = Vec::new();
        for (name, item) in table {
            match item.get_ref().as_str() {
                Some(text) => pairs.push((
                    At { value: name.get_ref().to_string(), place: self.reader.place(&name.span()) },
                    At { value: text.to_owned(), place: self.reader.place(&item.span()) },
                )),
                None => self.wrong(item, name.get_ref(), "a string"),
            }
        }
        pairs
    }

    /// Exactly one of the keys, for `{ exact | prefix | ... }`.
    pub(super) fn one_of(&mut self, keys: &[&'static str]) -> Option<(&'static str, At<String>)> {
        let present: Vec<&'static str> = keys.iter().copied().filter(|key| self.has(key)).collect();
        self.known.extend(keys);
        match present.as_slice() {
            [key] => self.string(key).map(|text| (*key, text)),
            _ => {
                let message = format!("{} needs exactly one of: {}", self.title, keys.join(", "));
                self.reader.push(self.place.problem(message));
                None
            }
        }
    }

    pub(super) fn problem(&self, key: &str, message: impl Into<String>, help: impl Into<String>) {
        self.reader.push(self.place_of(key).problem(message).help(help));
    }

    /// Ends the reading: whatever was not asked for is unknown.
    pub(super) fn finish(self) {
        for (key, _) in self.table {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let place = self.reader.place(&key.span());
            let problem = place.problem(format!("unknown key {name:?} in {}", self.title));
            self.reader.push(match closest(name, &self.known) {
                Some(near) => problem.help(format!("did you mean {near:?}?")),
                None => problem.help(format!("known keys: {}", self.known.join(", "))),
            });
        }
    }
}

fn article(kind: &str) -> String {
    let vowel = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if vowel { "an" } else { "a" })
}

/// The known word at the smallest edit distance, where that is small.
pub(super) fn closest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    if name.len() > 64 {
        return None;
    }
    let (distance, near) = known.iter().map(|k| (distance(name, k), *k)).min()?;
    (distance <= 1 + name.len() / 4).then_some(near)
}

fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let substitute = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = substitute.min(*cell + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        assert_eq!(closest("host", &["hosts", "ports"]), Some("hosts"));
        assert_eq!(closest("acton", &["action", "name"]), Some("action"));
        assert_eq!(closest("zebra", &["hosts", "ports"]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
