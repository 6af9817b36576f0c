//! Files that are there whole or not at all.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::Builder;

/// Lets `write` fill a file under another name, and puts it at `path` when it is safe on the disk. When `write`
/// fails, what was at `path` stays.
///
/// # Errors
/// What `write` fails with, and when the file cannot be written.
pub fn write_whole<T>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> Result<T>,
) -> Result<T> {
    let place = || format!("cannot write `{}`", path.display());
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = Builder::new();
    builder.prefix(".socratiq-").suffix(".unfinished");
    // Like any new file, within the user's mask; temporary files are private otherwise.
    #[cfg(unix)]
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    #[cfg(unix)]
    builder.permissions(mode);
    let unfinished = builder.tempfile_in(folder).with_context(place)?;
    let mut out = BufWriter::new(unfinished.as_file());
    let written = write(&mut out)?;
    out.flush().with_context(place)?;
    drop(out);
    unfinished.as_file().sync_all().with_context(place)?;
    unfinished.persist(path).with_context(place)?;
    Ok(written)
}
