//! The page: three files in the executable, served from memory.
//!
//! Promises: the page fetches nothing from anywhere else, and its headers forbid it to.
//! Must never: carry the token; the page gets it from the fragment of its address, which no log and no `Referer` sees.

use axum::http::header;
use axum::response::IntoResponse;

const INDEX: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// Sent with every answer of the server.
pub(super) const SECURITY_HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

pub(super) async fn index() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], INDEX)
}

pub(super) async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE)
}

pub(super) async fn script() -> impl IntoResponse {
    let kind = "text/javascript; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], SCRIPT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_names_no_address_outside_and_no_inline_code() {
        for (name, text) in [("html", INDEX), ("css", STYLE), ("js", SCRIPT)] {
            for banned in [
                "http:",
                "https:",
                "//cdn",
                "@import",
                "url(",
                "eval(",
                "innerHTML",
            ] {
                assert!(!text.contains(banned), "{name} contains {banned}");
            }
        }
        let opened = INDEX.matches("<script").count();
        let from_file = INDEX
            .matches("<script src=\"page.js\" defer></script>")
            .count();
        assert_eq!(
            (opened, from_file),
            (1, 1),
            "scripts come from the file only"
        );
        for banned in [" style=", " onclick=", "<style"] {
            assert!(!INDEX.contains(banned), "html contains {banned}");
        }
    }

    #[test]
    fn every_element_that_the_script_looks_up_is_on_the_page() {
        let ids: Vec<&str> = SCRIPT
            .split("$(\"#")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        assert!(ids.len() > 10, "the script looks up {ids:?}");
        for id in ids {
            let tag = format!("id=\"{id}\"");
            assert!(INDEX.contains(&tag), "{id} is missing");
        }
    }
}
