//! Methods of a program's own in the places of those that the loop's others go past: `call_soon`, which
//! sees what ours returns; `time`, which says when timers are due; `call_at`, which `call_later` calls.
//!
//! A subclass may have them, and somebody may put them on a class or on the loop itself at any time.

use std::cell::Cell;

use pyo3::{prelude::*, types::PyString};

use super::{Loop, METHODS};
use crate::fast;

/// A set of methods.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Methods(u8);

impl Methods {
    pub const CALL_SOON: Methods = Methods(1);
    pub const TIME: Methods = Methods(2);
    pub const CALL_AT: Methods = Methods(4);

    const ALL: [(&str, Methods); 3] =
        [("call_soon", Self::CALL_SOON), ("time", Self::TIME), ("call_at", Self::CALL_AT)];

    pub fn or(self, other: Methods) -> Methods {
        Methods(self.0 | other.0)
    }

    #[inline]
    fn meets(self, other: Methods) -> bool {
        self.0 & other.0 != 0
    }

    /// The one of this name, if it is one of them.
    fn named(name: &Bound<'_, PyString>) -> Option<Methods> {
        Self::ALL.into_iter().find(|(other, _)| name == other).map(|(_, method)| method)
    }
}

#[derive(Default)]
pub struct Overrides {
    of_loop: Cell<Methods>,
    /// What the class had at its `version`.
    of_class: Cell<Methods>,
    /// While the class has the same, nothing of it or of those above it has changed. 0 is no version.
    version: Cell<u32>,
}

impl Loop {
    /// Whether any of these methods is a program's own.
    #[inline]
    pub fn overrides(slf: &Bound<'_, Self>, methods: Methods) -> bool {
        let overrides = &slf.get().state(slf.py()).overrides;
        let version = fast::class_version(slf.as_any());
        if version == 0 || version != overrides.version.get() {
            Self::look_at_class(slf);
        }
        overrides.of_loop.get().or(overrides.of_class.get()).meets(methods)
    }

    #[cold]
    fn look_at_class(slf: &Bound<'_, Self>) {
        let py = slf.py();
        let class = slf.get_type();
        let is_ours = |name: &str| {
            let ours = METHODS.iter().find(|method| method.name.to_bytes() == name.as_bytes());
            let found = class.getattr(PyString::intern(py, name));
            found.is_ok_and(|found| ours.is_some_and(|ours| fast::is_method(&found, ours.call)))
        };
        let own = Methods::ALL.into_iter().filter(|(name, _)| !is_ours(name));
        let of_class = own.fold(Methods::default(), |all, (_, method)| all.or(method));
        let overrides = &slf.get().state(py).overrides;
        overrides.of_class.set(of_class);
        // Looking has given the class a version again.
        overrides.version.set(fast::class_version(slf.as_any()));
        Self::follow_clock(slf);
    }

    /// An attribute of the loop itself was set, or removed.
    pub fn attribute_changed(slf: &Bound<'_, Self>, name: &Bound<'_, PyString>, is_set: bool) {
        let Some(method) = Methods::named(name) else { return };
        let of_loop = &slf.get().state(slf.py()).overrides.of_loop;
        let others = Methods(of_loop.get().0 & !method.0);
        of_loop.set(if is_set { others.or(method) } else { others });
        Self::follow_clock(slf);
    }

    /// Timers follow the loop's own clock again where no other is left.
    fn follow_clock(slf: &Bound<'_, Self>) {
        let overrides = &slf.get().state(slf.py()).overrides;
        if !overrides.of_loop.get().or(overrides.of_class.get()).meets(Methods::TIME)
            && let Ok(model) = slf.get().model(slf.py())
        {
            model.reset_clock();
        }
    }
}
