//! Which sources names are looked up in: of hosts, users and groups.
//!
//! Promises: a static executable asks `/etc/hosts`, then the servers of `/etc/resolv.conf`; users and groups come from
//! `/etc/passwd` and `/etc/group`. That is what its C library has built in. Whatever else `/etc/nsswitch.conf` names
//! would be loaded from the system's own libraries, which belong to another C library than the one inside, and a
//! mismatch there ends processes in the middle of a look-up. A dynamic executable heeds `/etc/nsswitch.conf`.
//! Must never: be called when threads run, or look anything up itself.

/// Settles where names are looked up. To be called once, before any thread is started.
pub fn settle() {
    #[cfg(all(target_os = "linux", target_env = "gnu", target_feature = "crt-static"))]
    built_in::choose();
}

#[cfg(all(target_os = "linux", target_env = "gnu", target_feature = "crt-static"))]
#[expect(unsafe_code, reason = "no crate wraps this call of glibc")]
mod built_in {
    use std::ffi::{CStr, c_char, c_int};

    unsafe extern "C" {
        /// `<nss.h>`: from here on the database is looked up in the given services, whatever the file says.
        fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
    }

    /// Databases that we or our libraries ask, each with the services that glibc has built in since 2.34.
    const LOOKUPS: [(&CStr, &CStr); 3] = [
        (c"hosts", c"files dns"),
        (c"passwd", c"files"),
        (c"group", c"files"),
    ];

    pub(super) fn choose() {
        for (database, services) in LOOKUPS {
            // It fails on unknown words and without memory; then the file is heeded, as without this call.
            // SAFETY: both are constant C strings; nobody looks anything up meanwhile, as no thread runs yet.
            _ = unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
        }
    }
}
