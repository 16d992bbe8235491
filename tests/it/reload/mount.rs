//! A directory that is updated as kubelet does it.

use std::{fs, os::unix::fs::symlink, path::Path};

/// The directory of a mounted `ConfigMap` or Secret.
pub(super) struct Mount<'d>(pub(super) &'d Path);

impl Mount<'_> {
    /// The new content in a directory of its own, one rename, links to what is new, no links
    /// to what is gone, and the end of the old directory.
    pub(super) fn swap(&self, version: usize, files: &[(&str, &str)]) {
        let at = |name: &str| self.0.join(name);
        let directory = format!("..2026_01_01_{version}");
        fs::create_dir(at(&directory)).expect("make");
        for (name, text) in files {
            fs::write(at(&directory).join(name), text).expect("write");
        }
        let old = fs::read_link(at("..data"));
        symlink(&directory, at("..data_tmp")).expect("link");
        fs::rename(at("..data_tmp"), at("..data")).expect("swap");
        for (name, _) in files {
            if !is_link(&at(name)) {
                symlink(Path::new("..data").join(name), at("..new")).expect("link");
                fs::rename(at("..new"), at(name)).expect("rename");
            }
        }
        for entry in fs::read_dir(self.0).expect("a directory").flatten() {
            let name = entry.file_name().into_string().expect("text");
            let listed = files.iter().any(|(file, _)| *file == name);
            if !listed && !name.starts_with("..") && is_link(&entry.path()) {
                fs::remove_file(entry.path()).expect("remove");
            }
        }
        if let Ok(old) = old {
            fs::remove_dir_all(self.0.join(old)).expect("remove");
        }
    }
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}
