//! Pages: results as one self-contained file each, which a browser opens from the disk.
//!
//! A page is a shell that all share (typography, colours for light and dark, a few functions), a style and a
//! script of its own, and data. The data is JSON inside the page; scripts put it on the screen as text, never
//! as markup, so nothing in a dialogue can break out of it. A policy inside the page forbids it the network.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

/// What makes one page different from another.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// Its title.
    pub title: &'a str,
    /// Its style, after the shell's.
    pub style: &'a str,
    /// Its script, after the shell's: it finds `data`, and fills `main`.
    pub script: &'a str,
}

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

impl Page<'_> {
    /// Writes the page with its data.
    ///
    /// # Errors
    /// When the data has no JSON or `out` fails.
    pub fn write(&self, data: &impl Serialize, out: &mut impl Write) -> Result<()> {
        // 1. The head. No address is allowed, not even one that a dialogue would smuggle in.
        write!(
            out,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
             style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{}</title>\n<style>\n{STYLE}\n{}</style>\n</head>\n<body>\n<main></main>\n",
            escape(self.title),
            self.style
        )?;
        // 2. The data.
        let json = serde_json::to_string(data)?;
        writeln!(
            out,
            "<script id=\"data\" type=\"application/json\">{}</script>",
            inside_script(&json)
        )?;
        // 3. The scripts.
        write!(
            out,
            "<script>\n'use strict';\n{SCRIPT}\n{}</script>\n</body>\n</html>\n",
            self.script
        )?;
        Ok(())
    }
}

/// JSON that no parser of HTML sees an end in: `<` occurs only in strings, where it may be written as an escape.
fn inside_script(json: &str) -> String {
    json.replace('<', "\\u003c")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
