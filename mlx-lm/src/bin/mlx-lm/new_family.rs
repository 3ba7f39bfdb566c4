//! `mlx-lm new-family`: starts a model family in a checkout.

use crate::ui;
use anyhow::Result;
use mlx_lm::scaffold::new_family;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// The family's `model_type`: lower-case letters, digits and underscores.
    name: String,
    /// The checkout of the repository.
    #[arg(long, value_name = "DIR", default_value = ".")]
    root: PathBuf,
}

pub fn run(args: Args) -> Result<()> {
    let made = new_family(&args.root, &args.name)?;
    for path in [&made.family, &made.list, &made.case] {
        ui::line(format_args!("wrote {}", path.display()))?;
    }
    let name = &args.name;
    ui::line(format_args!(
        "next: say in the family file what the layers are made of and give the case the config of a toy model;\n\
         record what Python says: python mlx-lm/tests/goldens/record.py {}\n\
         compare: GOLDENS_ONLY={name} cargo test -p mlx-lm --test goldens -- --nocapture",
        made.case.display()
    ))
}
