//! Which option helps against an error. The library names no options, since its other users
//! have none.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use llama_jola::bake::BakeError;
use llama_jola::import::{ImportError, ImportErrorKind};

/// What to write behind the text of `error`; often nothing.
pub fn advice(error: &anyhow::Error) -> &'static str {
    if let Some(error) = error.downcast_ref::<BakeError>() {
        return match error {
            BakeError::TooFar { .. } => ": raise --max-kl, or choose a type with --outtype",
            BakeError::Engine(error) => of_engine(error),
            _ => "",
        };
    }
    if let Some(error) = error.downcast_ref::<ImportError>() {
        return match *error.kind {
            ImportErrorKind::Gates { .. } => ": use --format jola",
            ImportErrorKind::HeadsUnnamed { .. } => {
                ": give the heads of each, such as --heads 3,0+2 for two"
            }
            ImportErrorKind::NoSuchHead { .. } => " (see --heads)",
            ImportErrorKind::HeadsNamed => ": --heads is for folders of pyvene",
            _ => "",
        };
    }
    error.downcast_ref().map_or("", of_engine)
}

/// Says which commands have an option that this one has not.
pub fn of_usage(mut error: clap::Error) -> clap::Error {
    let unknown = match error.kind() {
        ErrorKind::UnknownArgument => error.get(ContextKind::InvalidArg),
        _ => None,
    };
    if matches!(unknown, Some(ContextValue::String(option)) if option == "--jola-tokens") {
        let tip = "the plugin and baked models edit every token; `llama-jola run` and `llama-jola \
                   eval` have this option";
        let tips = ContextValue::StyledStrs(vec![tip.into()]);
        error.insert(ContextKind::Suggested, tips);
    }
    error
}

fn of_engine(error: &llama_jola::Error) -> &'static str {
    use llama_jola::Error;
    match error {
        Error::ContextFull { .. } | Error::RowTooLong { .. } => " (raise it with -c)",
        _ => "",
    }
}
