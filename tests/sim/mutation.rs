//! The switch of the deliberate bugs in the product; without the feature `mutations` there is none.

#[cfg(not(feature = "mutations"))]
#[derive(Debug, Clone, Default, clap::Args)]
pub struct MutationArgs {}

#[cfg(not(feature = "mutations"))]
impl MutationArgs {
    pub fn apply(&self) -> Result<bool, String> {
        Ok(true)
    }
}

#[cfg(feature = "mutations")]
pub use switch::MutationArgs;

#[cfg(feature = "mutations")]
mod switch {
    use highwater_types::mutation::{Mutation, turn_on};

    #[derive(Debug, Clone, Default, clap::Args)]
    pub struct MutationArgs {
        /// Gives the product this deliberate bug: the run should fail. From the environment, so that the runs of other seeds
        /// and of fewer faults have it, too.
        #[arg(long, value_name = "NAME", env = "HIGHWATER_MUTATION")]
        mutation: Option<String>,
        /// Lists the deliberate bugs: name, trap, the promises of which it breaks at least one, and what it does.
        #[arg(long)]
        mutations: bool,
    }

    impl MutationArgs {
        /// Whether there is something to run.
        pub fn apply(&self) -> Result<bool, String> {
            if self.mutations {
                for one in Mutation::ALL {
                    println!("{}\t{}\t{}\t{}", one.name(), one.trap(), one.promises(), one.what());
                }
                return Ok(false);
            }
            if let Some(name) = &self.mutation {
                let found = Mutation::ALL.iter().find(|one| one.name() == name);
                turn_on(*found.ok_or_else(|| format!("there is no mutation {name}; --mutations lists them"))?);
            }
            Ok(true)
        }
    }
}
