//! Plugins in the configuration: one by one, or a directory of sockets.

use std::{
    fs, io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::Deserialize;

use super::BackendSettings;
use crate::{
    backends::plugin::{PluginBackend, PluginSettings},
    config::{
        DiscoveredPlugins,
        schema::{self, Uid},
        value::Context,
    },
    json_schema::shape::NonEmpty,
    secret::BackendName,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct PluginFile {
    /// The socket that the plugin listens on.
    socket: PathBuf,
    /// As whom the plugin may run. By default as root or as the service.
    #[schemars(with = "Option<NonEmpty<Uid>>")]
    allowed_uids: Option<Vec<u32>>,
    /// Goes before every name. None by default.
    #[serde(default)]
    #[schemars(with = "Option<schema::AnyPrefix>")]
    prefix: String,
}

/// Every socket `<name>.sock` of a directory is a backend of that name, unless there is one.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Plugins")]
pub(in crate::config) struct PluginsFile {
    /// The directory. Watched; it need not be there yet.
    directory: PathBuf,
    /// As whom the plugins may run. By default as root or as the service.
    #[schemars(with = "Option<NonEmpty<Uid>>")]
    allowed_uids: Option<Vec<u32>>,
}

// === impl PluginFile ===

impl PluginFile {
    pub(super) fn check(self, context: &Context<'_>) -> Result<PluginSettings, String> {
        let Self { socket, allowed_uids, prefix } = self;
        if !prefix.chars().all(|c| PluginBackend::GRAMMAR.allows(c)) || prefix.len() > 255 {
            return Err(format!("prefix {prefix:?} is no part of a secret name"));
        }
        nobody(allowed_uids.as_deref())?;
        Ok(PluginSettings { socket: context.resolve(&socket), allowed_uids, prefix })
    }
}

// === impl PluginsFile ===

impl PluginsFile {
    /// Makes a backend of every socket `<name>.sock` in the directory, unless the name
    /// is taken. A directory that is not there yet is an empty one.
    pub(in crate::config) fn discover(
        self,
        backends: &mut Vec<(BackendName, BackendSettings)>,
        context: &Context<'_>,
    ) -> Result<DiscoveredPlugins, String> {
        nobody(self.allowed_uids.as_deref())?;
        let directory = context.resolve(&self.directory);
        let shown = directory.display();
        let (mut names, mut warnings) = (Vec::new(), Vec::new());
        let mut add = |name: BackendName, socket: PathBuf| {
            if backends.iter().any(|(taken, _)| *taken == name) {
                return;
            }
            let allowed_uids = self.allowed_uids.clone();
            let settings = PluginSettings { socket, allowed_uids, prefix: String::new() };
            names.push(name.clone());
            backends.push((name, BackendSettings::Plugin(settings)));
        };
        match sockets(&directory) {
            Ok(sockets) => {
                for (stem, socket) in sockets {
                    let Some(name) = BackendName::parse(&stem) else {
                        warnings.push(format!(
                            "plugins.directory: {} is left out: a backend's name is 1 to 63 \
                             lower-case letters, digits or hyphens",
                            socket.display()
                        ));
                        continue;
                    };
                    add(name, socket);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                warnings.push(format!("plugins.directory: {shown} does not exist yet"));
            }
            Err(error) => return Err(format!("{shown} cannot be read: {error}")),
        }
        let before = context.plugins;
        if before.directory.as_ref() == Some(&directory) {
            for name in &before.names {
                add(name.clone(), directory.join(format!("{name}.sock")));
            }
        }
        names.sort();
        Ok(DiscoveredPlugins { directory: Some(directory), names, warnings })
    }
}

/// The sockets of a directory with their names less `.sock`, in order: what is found is
/// compared with what was found before.
fn sockets(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        // It may be gone by now.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(stem) = name.strip_suffix(".sock")
            && metadata.file_type().is_socket()
        {
            found.push((stem.to_owned(), path.clone()));
        }
    }
    found.sort();
    Ok(found)
}

fn nobody(allowed_uids: Option<&[u32]>) -> Result<(), String> {
    match allowed_uids {
        Some([]) => Err("allowed_uids is empty: no plugin could be called".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::config::{Config, Environment};

    fn parse(yaml: &str, directory: &Path) -> Result<Config, String> {
        let path = directory.join("vaultmux.yaml");
        let read = Config::parse(yaml, &path, &Environment::from([]));
        schema::tests::agrees(yaml, read.as_ref().map(drop));
        read.map_err(|error| error.to_string())
    }

    #[test]
    fn sockets_of_a_directory_are_backends_unless_their_name_is_taken() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join("plugins").join(name);
        let yaml = "backends: {hsm: {type: plugin, socket: /elsewhere/hsm.sock}}\n\
                    plugins: {directory: plugins, allowed_uids: [7]}\n";
        let missing = parse(yaml, directory.path()).expect("valid");
        assert_eq!(missing.backends.len(), 1);
        assert!(missing.warnings()[0].ends_with("plugins does not exist yet"));

        fs::create_dir(at("")).expect("made");
        for name in ["vault-2.sock", "a.sock", "hsm.sock", "Upper.sock", "other.socket", ".sock"] {
            UnixListener::bind(at(name)).expect("bound");
        }
        fs::write(at("file.sock"), "").expect("written");
        std::os::unix::fs::symlink(at("a.sock"), at("link.sock")).expect("linked");
        let config = parse(yaml, directory.path()).expect("valid");
        let names: Vec<_> = config.backends.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["hsm", "a", "vault-2"]);
        let socket = |at: usize| match &config.backends[at].1 {
            BackendSettings::Plugin(settings) => settings.clone(),
            other => panic!("{other}"),
        };
        assert_eq!(socket(0).socket, Path::new("/elsewhere/hsm.sock"));
        assert_eq!((socket(1).socket, socket(1).allowed_uids), (at("a.sock"), Some(vec![7])));
        let refused = config.warnings();
        assert!(refused.iter().any(|warning| warning.contains("Upper.sock is left out")));
        assert!(refused.iter().any(|warning| warning.contains("/.sock is left out")));
        // The default backend must not depend on which sockets are there.
        let reference = config.catalog.locate("key", crate::secret::NameEncoding::Plain, None);
        assert_eq!(reference.expect("a default").backend.as_str(), "hsm");
    }

    #[test]
    fn plugins_alone_are_enough_and_none_is_the_default() {
        let directory = tempfile::tempdir().expect("a directory");
        UnixListener::bind(directory.path().join("a.sock")).expect("bound");
        let config = parse("plugins: {directory: .}\n", directory.path()).expect("valid");
        assert_eq!(config.backends.len(), 1);
        config.catalog.locate("key", crate::secret::NameEncoding::Plain, None).expect_err("none");
        config.catalog.parse_reference("secret://a/key").expect("a plugin");
        let none_yet = parse("plugins: {directory: later}\n", directory.path()).expect("valid");
        assert_eq!(none_yet.backends, []);
    }

    #[test]
    fn mistakes_are_named() {
        let directory = tempfile::tempdir().expect("a directory");
        for (yaml, expected) in [
            ("plugins: {directory: vaultmux.yaml}\n", "vaultmux.yaml cannot be read: "),
            ("plugins: {directory: ., allowed_uids: []}\n", "plugins: allowed_uids is empty"),
            ("plugins: {allowed_uids: [1]}\n", "missing field `directory`"),
            ("backends: {a: {type: plugin}}\n", "missing field `socket`"),
            (
                "backends: {a: {type: plugin, socket: s, allowed_uids: []}}\n",
                "backends.a: allowed_uids is empty",
            ),
            ("backends: {a: {type: plugin, socket: s, prefix: 'a b'}}\n", "backends.a: prefix"),
            ("backends: {a: {type: plugin, socket: s, allowed_uids: [root]}}\n", "backends.a"),
        ] {
            fs::write(directory.path().join("vaultmux.yaml"), yaml).expect("written");
            let error = parse(yaml, directory.path()).expect_err(yaml);
            assert!(error.contains(expected), "{error}");
        }
    }
}
