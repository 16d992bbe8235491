//! What is dangerous in configuration of Envoy, Istio and Envoy Gateway around our filters:
//! what makes them fail open, be skipped, believe the wrong caller or answer too late.
//!
//! Text in, findings out: no files, no network. A leaf, which only `cli` uses. Rules that say
//! that something is missing look at all that is given together: a provider may be in one file
//! and the policy that names it in another.

mod allowed;
mod document;
mod envoy;
mod gateway;
mod istio;
mod mesh;
mod rules;
mod service;
mod tree;

use self::{
    document::{Document, Kind},
    envoy::{Around, Proxy, read::Named},
    mesh::Mesh,
};

pub use self::rules::RULES;

/// A file, or what stands for one.
#[derive(Clone, Debug)]
pub struct Source {
    /// What it is called in findings.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Most likely not meant, or breaks under load or at the next change.
    Warning,
    /// Lets requests or secrets through, or lets nothing through.
    Error,
}

/// One thing that may be wrong.
#[derive(Debug)]
pub struct Rule {
    /// Never changes.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub what: &'static str,
    /// Why it fails open or breaks.
    pub why: &'static str,
    /// How to mend it.
    pub help: &'static str,
}

/// Something that is wrong.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Which rule says so.
    pub rule: &'static Rule,
    /// The source's place among those given.
    pub source: usize,
    /// From 1.
    pub line: u64,
    /// What is wrong here, where it is more than the rule says.
    pub detail: String,
}

/// Something in a source that is no finding: what was not looked at, or cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// The source's place among those given.
    pub source: usize,
    /// From 1; 0 if not known.
    pub line: u64,
    /// One line.
    pub text: String,
}

/// All that was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order of the sources and their lines.
    pub findings: Vec<Finding>,
    /// What no rule looks at.
    pub notes: Vec<Remark>,
    /// What cannot be read.
    pub unreadable: Vec<Remark>,
    /// How many documents there are that rules look at.
    pub looked_at: usize,
}

/// Where rules put what they find.
#[derive(Debug)]
struct Findings<'a> {
    source: usize,
    list: &'a mut Vec<Finding>,
}

/// Looks at all sources together.
#[must_use]
pub fn lint(sources: &[Source]) -> Report {
    let mut report = Report::default();
    let mut documents = Vec::new();
    for (source, Source { text, .. }) in sources.iter().enumerate() {
        let (read, unreadable) = document::read(source, text);
        let remark = |error: tree::Unreadable| Remark {
            source,
            line: error.line,
            text: format!("cannot be read as YAML: {}", error.message),
        };
        report.unreadable.extend(unreadable.into_iter().map(remark));
        documents.extend(read);
    }
    document::kustomize(&mut documents, |source| {
        sources[source].name.rsplit_once('/').map_or("", |(directory, _)| directory).to_owned()
    });
    let mesh = Mesh::new(&documents);
    let files = Named::of_files(&documents);
    let around = Around { overrides_heeded: mesh.overrides_heeded() };
    for document in &documents {
        report.looked_at +=
            usize::from(!matches!(document.kind, Kind::Kustomization | Kind::Other(_)));
        let mut found = Findings { source: document.source, list: &mut report.findings };
        match &document.kind {
            Kind::Bootstrap => Proxy::of_bootstrap(document, &files).check(around, &mut found),
            Kind::ConfigDump => Proxy::of_dump(document).check(around, &mut found),
            Kind::Resources => Proxy::of_resources(document, &files).check(around, &mut found),
            Kind::Service => service::check(&document.root, &mut found),
            Kind::Mesh(_) => istio::providers(document, &mesh, &mut found),
            Kind::Object(object) => {
                istio::check(document, object, &mesh, &mut found);
                gateway::check(document, object, &mesh, &mut found);
            }
            Kind::Kustomization => {}
            Kind::Other(what) => report.notes.push(Remark {
                source: document.source,
                line: document.root.line,
                text: format!("{what} is not looked at"),
            }),
        }
    }
    mesh.check(&mut report.findings);
    report.findings.retain(|finding| !allowed::here(&sources[finding.source].text, finding));
    report.findings.sort_by_key(|finding| (finding.source, finding.line, finding.rule.id));
    report.findings.dedup_by(|left, right| {
        (left.source, left.line, left.rule.id, &left.detail)
            == (right.source, right.line, right.rule.id, &right.detail)
    });
    report
}

// === impl Severity ===

impl Severity {
    /// In one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

// === impl Finding ===

impl Finding {
    /// What is wrong, in one line.
    #[must_use]
    pub fn message(&self) -> String {
        match self.detail.is_empty() {
            true => self.rule.what.to_owned(),
            false => format!("{}: {}", self.rule.what, self.detail),
        }
    }
}

// === impl Report ===

impl Report {
    /// How many findings there are of a severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.rule.severity == severity).count()
    }
}

// === impl Findings ===

impl Findings<'_> {
    /// For what stands in another source, if it does.
    fn within(&mut self, source: Option<usize>) -> Findings<'_> {
        Findings { source: source.unwrap_or(self.source), list: self.list }
    }

    fn add(&mut self, rule: &'static Rule, line: u64) {
        self.add_with(rule, line, String::new());
    }

    fn add_with(&mut self, rule: &'static Rule, line: u64, detail: impl Into<String>) {
        // A parser that does not know the line means the document.
        let (source, line) = (self.source, line.max(1));
        self.list.push(Finding { rule, source, line, detail: detail.into() });
    }
}

impl Document {
    fn findings<'a>(&self, list: &'a mut Vec<Finding>) -> Findings<'a> {
        Findings { source: self.source, list }
    }
}

#[cfg(test)]
mod tests;
