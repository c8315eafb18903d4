//! Panics of foreign code: what they say, and how to live with those of which nobody can be told.

use std::{
    any::Any,
    mem::forget,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// The text of a panic, as far as it has one.
///
/// ```
/// let panic = std::panic::catch_unwind(|| panic!("{} bottles", 99)).unwrap_err();
/// assert_eq!(velodrome::panic_message(panic.as_ref()), "99 bottles");
/// ```
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value without text")
}

/// Runs foreign code in the middle of something that must be brought to its end.
///
/// The panic hook has told of a panic in it. What it panicked with is leaked, since its destructor may
/// be one that panics.
pub(crate) fn quietly(foreign: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(foreign)) {
        forget(panic);
    }
}
