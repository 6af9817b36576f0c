//! `socratiq export`: a model as other tools load it.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Map;
use socratiq::agents::LanguageModel;
use socratiq::agents::model::{AdapterFolder, Decoder, Weights};
use socratiq::model_path;

/// What is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Run directory, Hugging Face folder, PEFT folder or .gguf file
    #[arg(long)]
    model: String,
    /// What to write
    #[arg(long, value_enum)]
    format: Format,
    /// The folder to write into; it must be new or empty
    #[arg(long)]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A Hugging Face folder in f32; a model with adapters must be merged
    Hf,
    /// The adapters alone, as PEFT loads them
    Peft,
    /// A Hugging Face folder in f32, adapters merged into the weights
    Merged,
}

/// Writes a model in another form.
pub(crate) fn export(options: &Options) -> Result<()> {
    let path = model_path::resolve(&options.model)?;
    if options
        .out
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_some())
    {
        bail!(
            "`{}` is not empty: give a new folder",
            options.out.display()
        );
    }
    let adapters = AdapterFolder::read(&path)?;
    let codec = LanguageModel::open_codec(&path, &Map::new())?;
    let decoder = Decoder::open(&path, Weights::Whole)?;
    match (options.format, &adapters) {
        (Format::Hf, Some(_)) => {
            bail!(
                "`{}` has adapters: export them with --format peft, or merge with --format merged",
                path.display()
            )
        }
        (Format::Hf | Format::Merged, _) => decoder.save(&options.out)?,
        (Format::Peft, None) => {
            bail!(
                "`{}` has no adapters: export it with --format hf",
                path.display()
            )
        }
        (Format::Peft, Some(adapters)) => {
            let base = absolute(&adapters.base)?;
            decoder.save_adapters(&options.out, &adapters.lora, &base.to_string_lossy())?;
        }
    }
    codec.save(&options.out)?;
    writeln!(io::stderr(), "written to {}", options.out.display())?;
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize()
        .with_context(|| format!("cannot find `{}`", path.display()))
}
