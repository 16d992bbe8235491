//! The program from outside: its commands, its listeners, a real Envoy in front.

mod cli;
mod descriptors;
mod tidy;
