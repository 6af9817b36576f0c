//! Files that are there whole or not at all.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::Builder;

/// The folder that `path` is in, which is made where there is none.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn make_folder_of(path: &Path) -> Result<&Path> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    Ok(folder)
}

/// Lets `write` fill a file under another name, and puts it at `path`, in a folder that is made where there is none,
/// when it is safe on the disk. When `write` fails, what was at `path` stays.
///
/// # Errors
/// What `write` fails with, and when the file cannot be written.
pub fn write_whole<T>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> Result<T>,
) -> Result<T> {
    let place = || format!("cannot write `{}`", path.display());
    let folder = make_folder_of(path)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn a_file_is_there_whole_or_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/folder/file");
        write_whole(&path, |out| Ok(out.write_all(b"one")?)).unwrap();
        let failed = write_whole(&path, |out| -> Result<()> {
            out.write_all(b"half")?;
            bail!("no more")
        });
        assert_eq!(failed.unwrap_err().to_string(), "no more");
        assert_eq!(fs::read(&path).unwrap(), b"one");
        // Nothing unfinished is left behind.
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
