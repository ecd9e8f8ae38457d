//! What the nftnl crate lacks, made over its C bindings: table flags, interval sets, and any expression by its
//! attributes. The one file of this module with `unsafe`; everything it gives out is safe.
#![expect(unsafe_code, reason = "libnftnl is a C library; each block says why it holds")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::NonNull;

use nftnl::expr::Expression;
use nftnl::nftnl_sys::{self as sys, libc};
use nftnl::set::{Set, SetKey};
use nftnl::{MsgType, NlMsg, ProtoFamily, Rule};

/// An expression by its libnftnl name and its attributes (`NFTNL_EXPR_*`).
pub(super) struct Fields {
    pub name: &'static CStr,
    pub values: Vec<(u32, Value)>,
}

pub(super) enum Value {
    U32(u32),
    U64(u64),
    Text(CString),
    Expression(Box<Fields>),
}

impl Expression for Fields {
    fn to_expr(&self, _rule: &Rule<'_>) -> NonNull<sys::nftnl_expr> {
        self.made()
    }
}

impl Fields {
    fn made(&self) -> NonNull<sys::nftnl_expr> {
        // SAFETY: the name is a C string that outlives the call; libnftnl copies nothing else from it.
        let expr = allocated(unsafe { sys::nftnl_expr_alloc(self.name.as_ptr()) });
        for (attribute, value) in &self.values {
            let attribute = *attribute;
            // SAFETY: `expr` was just made and is owned here until it is returned; libnftnl copies number and string
            // and bounds them by the attribute, and takes over the inner expression, which nobody else holds.
            unsafe {
                match value {
                    Value::U32(n) => sys::nftnl_expr_set_u32(expr.as_ptr(), attribute as u16, *n),
                    Value::U64(n) => sys::nftnl_expr_set_u64(expr.as_ptr(), attribute as u16, *n),
                    Value::Expression(inner) => {
                        let inner = inner.made().as_ptr().cast::<c_void>();
                        if sys::nftnl_expr_set(expr.as_ptr(), attribute as u16, inner, 0) < 0 {
                            std::process::abort();
                        }
                    }
                    Value::Text(text) => {
                        if sys::nftnl_expr_set_str(expr.as_ptr(), attribute as u16, text.as_ptr()) < 0 {
                            std::process::abort();
                        }
                    }
                }
            }
        }
        expr
    }
}

/// A table with flags (`NFT_TABLE_F_*`); the crate's own writes none.
pub(super) struct FlaggedTable {
    table: NonNull<sys::nftnl_table>,
}

impl FlaggedTable {
    pub fn new(name: &CStr, flags: u32) -> Self {
        // SAFETY: takes nothing.
        let table = allocated(unsafe { sys::nftnl_table_alloc() });
        // SAFETY: `table` is valid and owned; the string is copied.
        unsafe {
            sys::nftnl_table_set_u32(table.as_ptr(), sys::NFTNL_TABLE_FAMILY as u16, INET);
            sys::nftnl_table_set_str(table.as_ptr(), sys::NFTNL_TABLE_NAME as u16, name.as_ptr());
            sys::nftnl_table_set_u32(table.as_ptr(), sys::NFTNL_TABLE_FLAGS as u16, flags);
        }
        Self { table }
    }
}

const INET: u32 = ProtoFamily::Inet as u32;

impl Drop for FlaggedTable {
    fn drop(&mut self) {
        // SAFETY: made in `new`, freed once.
        unsafe { sys::nftnl_table_free(self.table.as_ptr()) }
    }
}

// SAFETY: a table message is a header, a name and one number: far below the largest netlink message.
unsafe impl NlMsg for FlaggedTable {
    unsafe fn write(&self, buf: *mut c_void, seq: u32, msg_type: MsgType) {
        let (kind, flags) = match msg_type {
            MsgType::Add => (libc::NFT_MSG_NEWTABLE, libc::NLM_F_CREATE | libc::NLM_F_ACK),
            MsgType::Del => (libc::NFT_MSG_DELTABLE, libc::NLM_F_ACK),
        };
        // SAFETY: the caller gives a buffer for the largest message; the table is valid while `self` lives.
        unsafe {
            let header = sys::nftnl_nlmsg_build_hdr(
                buf.cast::<c_char>(),
                kind as u16,
                ProtoFamily::Inet as u16,
                flags as u16,
                seq,
            );
            sys::nftnl_table_nlmsg_build_payload(header, self.table.as_ptr());
        }
    }
}

/// Makes it a set that rules fill: bounded, and with seconds after which an element that is not renewed goes.
pub(super) fn make_dynamic<K>(set: &Set<'_, K>, size: u32, forget: Option<u64>) {
    let flags = libc::NFT_SET_EVAL | forget.map_or(0, |_| libc::NFT_SET_TIMEOUT);
    // SAFETY: the pointer is valid while the set is borrowed; three numbers are copied.
    unsafe {
        let set = set.as_ptr().as_ptr();
        sys::nftnl_set_set_u32(set, sys::NFTNL_SET_FLAGS as u16, flags as u32);
        sys::nftnl_set_set_u32(set, sys::NFTNL_SET_DESC_SIZE as u16, size);
        if let Some(seconds) = forget {
            sys::nftnl_set_set_u64(set, sys::NFTNL_SET_TIMEOUT as u16, seconds.saturating_mul(1000));
        }
    }
}

/// The message that takes every element out of a set.
pub(super) struct Emptied<'a, K>(pub &'a Set<'a, K>);

// SAFETY: without elements the message is a header and three short attributes.
unsafe impl<K> NlMsg for Emptied<'_, K> {
    unsafe fn write(&self, buf: *mut c_void, seq: u32, _: MsgType) {
        // SAFETY: the caller gives a buffer for the largest message; the set is valid while `self` lives.
        unsafe {
            let header = sys::nftnl_nlmsg_build_hdr(
                buf.cast::<c_char>(),
                libc::NFT_MSG_DELSETELEM as u16,
                ProtoFamily::Inet as u16,
                libc::NLM_F_ACK as u16,
                seq,
            );
            sys::nftnl_set_elems_nlmsg_build_payload(header, self.0.as_ptr().as_ptr());
        }
    }
}

/// Marks a set as one of intervals, so that it takes `add_bound`.
pub(super) fn make_interval<K>(set: &mut Set<'_, K>) {
    // SAFETY: the pointer is valid while the set is borrowed, and the borrow is exclusive.
    unsafe {
        sys::nftnl_set_set_u32(
            set.as_ptr().as_ptr(),
            sys::NFTNL_SET_FLAGS as u16,
            libc::NFT_SET_INTERVAL as u32,
        );
    }
}

/// Notes beside the set that its keys are in host order, as nft does for interface names: it could not list them else.
pub(super) fn tell_host_order<K>(set: &Set<'_, K>) {
    // One nftnl_udata: type, length, value (BYTEORDER_HOST_ENDIAN of nft).
    let mut note = [sys::NFTNL_UDATA_SET_KEYBYTEORDER as u8, 4, 0, 0, 0, 0];
    note.iter_mut().skip(2).zip(1u32.to_ne_bytes()).for_each(|(to, from)| *to = from);
    // SAFETY: the pointer is valid while the set is borrowed; libnftnl copies the bytes.
    let copied = unsafe {
        sys::nftnl_set_set_data(
            set.as_ptr().as_ptr(),
            sys::NFTNL_SET_USERDATA as u16,
            note.as_ptr().cast::<c_void>(),
            note.len() as u32,
        )
    };
    if copied < 0 {
        std::process::abort();
    }
}

/// Adds one end of an interval: its first key, or (`end`) the first key behind it.
pub(super) fn add_bound<K: SetKey>(set: &mut Set<'_, K>, key: &K, end: bool) {
    let data = key.data();
    // SAFETY: takes nothing.
    let element = allocated(unsafe { sys::nftnl_set_elem_alloc() });
    // SAFETY: `element` is valid; libnftnl copies `data.len()` bytes and checks them against its own bound; the set
    // takes the element over and frees it with itself.
    unsafe {
        sys::nftnl_set_elem_set(
            element.as_ptr(),
            sys::NFTNL_SET_ELEM_KEY as u16,
            data.as_ptr().cast::<c_void>(),
            data.len() as u32,
        );
        if end {
            sys::nftnl_set_elem_set_u32(
                element.as_ptr(),
                sys::NFTNL_SET_ELEM_FLAGS as u16,
                libc::NFT_SET_ELEM_INTERVAL_END as u32,
            );
        }
        sys::nftnl_set_elem_add(set.as_ptr().as_ptr(), element.as_ptr());
    }
}

/// A failed allocation of some bytes leaves nothing to go on with; libstd ends the process likewise.
fn allocated<T>(pointer: *mut T) -> NonNull<T> {
    NonNull::new(pointer).unwrap_or_else(|| std::process::abort())
}
