//! `openapi`: what clients are made from.

use clap::Args;

use super::{Answer, print};
use crate::api;

#[derive(Debug, Args)]
pub(super) struct OpenApi {}

// === impl OpenApi ===

impl OpenApi {
    pub(super) fn run(self) -> Answer {
        print(api::openapi::printed().trim_end());
        Answer::Yes
    }
}
