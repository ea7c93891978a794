//! Panics that the product catches so that nobody else is the worse for them: in a run each is a finding all the same.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on panics are noted.
pub(super) fn watch() {
    static WATCHES: Once = Once::new();
    WATCHES.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            LAST.set(Some(panic.to_string()));
            before(panic);
        }));
    });
}

/// The last one of this thread since this was asked.
pub(super) fn take() -> Option<String> {
    LAST.take()
}
