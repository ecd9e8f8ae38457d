//! The follower over single blocks.

use super::*;

fn string(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    [&[length][..], text.as_bytes()].concat()
}

/// `:path` by its static name; `kept` in the dynamic table.
fn path(value: &str, kept: bool) -> Vec<u8> {
    [vec![if kept { 0x44 } else { 0x04 }], string(value)].concat()
}

#[test]
fn pm_14_a_fragment_is_found_in_every_form_of_a_path() {
    for kept in [false, true] {
        let found = |block: Vec<u8>| Blocks::default().has_fragment(&block).unwrap();
        assert!(found(path("/public/a#/../../admin", kept)));
        assert!(!found(path("/public/a", kept)), "its positive twin");
        let prefix = if kept { 0x40 } else { 0x10 };
        assert!(found([vec![prefix], string(":path"), string("/#")].concat()));
        assert!(!found([vec![prefix], string("x-path"), string("/#")].concat()), "another field");
        // "/a#b" and ":path", in Huffman's code.
        let coded = [0x60, 0x7f, 0xf5, 0x1f];
        assert_eq!(Text { bytes: &coded[..], huffman: true }.has(b'#'), Ok(true), "the example is right");
        assert!(found([vec![prefix | 4, 0x84], coded.to_vec()].concat()));
        let name = [0xb9, 0x58, 0xd3, 0x3f];
        assert_eq!(Text { bytes: &name[..], huffman: true }.is(PATH), Ok(true), "the example is right");
        assert!(found([vec![prefix, 0x84], name.to_vec(), string("/a#")].concat()));
    }
}

#[test]
fn pm_14_a_fragment_in_the_table_is_found_again_and_no_other_entry_is_taken_for_it() {
    let mut blocks = Blocks::default();
    assert!(!blocks.has_fragment(&path("/good", true)).unwrap());
    assert!(blocks.has_fragment(&path("/bad#", true)).unwrap());
    assert!(blocks.has_fragment(&[0x80 | 62]).unwrap(), "the newest");
    assert!(!blocks.has_fragment(&[0x80 | 63]).unwrap(), "the one before");
    let by_name = [vec![0x40 | 62], string("/x#y")].concat();
    assert!(blocks.has_fragment(&by_name).unwrap(), "its name by its place in the table");
    assert!(!blocks.has_fragment(&[0x84]).unwrap(), "the static one");
    assert_eq!(blocks.has_fragment(&[0x80 | 65]), Err(Unreadable), "there are three");
}

#[test]
fn entries_leave_the_table_as_their_sizes_say() {
    let mut blocks = Blocks::default();
    // Each is 5 + 59 + 32 = 96 bytes: 42 of them fit.
    for n in 0..50 {
        let value = format!("/{n:02}{}", "x".repeat(56));
        blocks.has_fragment(&path(&value, true)).unwrap();
    }
    assert_eq!((blocks.table.len(), blocks.size), (42, 42 * 96));
    // A size update to 200, in two bytes.
    assert_eq!(blocks.has_fragment(&[0x3f, 200 - 0x1f, 1]), Ok(false));
    assert_eq!(blocks.size, 2 * 96);
    let mut blocks = Blocks::default();
    blocks.has_fragment(&path("/bad#", true)).unwrap();
    assert!(!blocks.has_fragment(&[0x20]).unwrap(), "a table of nothing");
    assert_eq!(blocks.has_fragment(&[0x80 | 62]), Err(Unreadable));
    assert!(blocks.has_fragment(&path("/bad#", true)).unwrap());
    assert_eq!(blocks.has_fragment(&[0x80 | 62]), Err(Unreadable), "nothing is kept in it");
    assert_eq!(blocks.has_fragment(&[0x3f, 0xe2, 0x1f]), Err(Unreadable), "4097 is more than was offered");
}

#[test]
fn what_ends_too_soon_is_unreadable() {
    let whole = [path("/a", true), path("/b#", false)].concat();
    for length in 1..whole.len() {
        let read = Blocks::default().has_fragment(&whole[..length]);
        assert_eq!(read.is_err(), length != 4, "{length}");
    }
    for bad in [&[0x80][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &[0x44, 0xff, 0xff, 0xff, 0xff, 0x7f]] {
        assert_eq!(Blocks::default().has_fragment(bad), Err(Unreadable), "{bad:x?}");
    }
}

/// A literal that no table keeps.
fn field(name: &str, value: &str) -> Vec<u8> {
    [vec![0x10], string(name), string(value)].concat()
}

#[test]
fn sm_36_what_no_trailers_may_hold_is_found_in_every_form() {
    let found = |block: &[u8]| Blocks::default().trailers(block).unwrap();
    assert_eq!(found(&[field("x-t", "a b"), field("x_t", "a\tb\u{e9}")].concat()), None);
    assert_eq!(found(&[0x80 | 15]), None, "a field of the static table");
    for index in 1..=14 {
        assert_eq!(found(&[0x80 | index]), Some(BadTrailers::Malformed), "{index}");
        assert_eq!(found(&[&[index][..], &string("200")].concat()), Some(BadTrailers::Malformed), "{index}");
    }
    for name in [":path", ":authority", ":method", ":protocol", ":scheme", ":status"] {
        assert_eq!(found(&field(name, "200")), Some(BadTrailers::Malformed), "{name}");
    }
    // ":path" in Huffman's code.
    let coded = [&[0x10, 0x84, 0xb9, 0x58, 0xd3, 0x3f][..], &string("/")].concat();
    assert_eq!(found(&coded), Some(BadTrailers::Malformed));
    for (name, value) in [("x\"t", "a"), ("x-t", " a"), ("x-t", "a\t"), ("x-t", " ")] {
        assert_eq!(found(&field(name, value)), Some(BadTrailers::Malformed), "{name:?} {value:?}");
    }
    for name in ["X-T", "", "x t", "x:t", ":nothing", "x\r\ny", "x\0", "x\u{e9}", "x(", ":"] {
        assert_eq!(found(&field(name, "a")), Some(BadTrailers::NoField), "{name:?}");
    }
    for value in ["a\r\nb", "a\0", "\u{7f}"] {
        assert_eq!(found(&field("x-t", value)), Some(BadTrailers::NoField), "{value:?}");
    }
    let mut blocks = Blocks::default();
    blocks.has_fragment(&[&[0x40][..], &string(":scheme"), &string("https")].concat()).unwrap();
    assert_eq!(blocks.trailers(&[0x80 | 62]), Ok(Some(BadTrailers::Malformed)), "out of the table");
}

#[test]
fn a_table_changes_its_size_only_before_the_fields_of_a_block() {
    assert_eq!(Blocks::default().has_fragment(&[0x20, 0x3f, 0xe1, 0x1f, 0x84]), Ok(false));
    assert_eq!(Blocks::default().has_fragment(&[0x84, 0x20]), Err(Unreadable));
}
