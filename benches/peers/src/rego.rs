//! Rego on Regorus' virtual machine. The rules are data, indexed by who asks, as is usual
//! where there are many: a rule of Rego for each would be tried one by one.

use std::sync::Arc;

use regorus::{Engine as Compiler, Value, rvm::vm::RegoVM};
use serde_json::{Map, json};

use crate::{
    Engine,
    rules::{Question, Rules, account, named, root},
};

pub(crate) struct Rego {
    machine: RegoVM,
    questions: Vec<Value>,
}

const ALLOW: &str = "data.mesh.allow";

const POLICY: &str = r#"
package mesh

default allow := false

allow if {
    permitted
    not denied
}

permitted if {
    input.verb in {"get", "list"}
    startswith(input.secret, concat("", [input.namespace, "/"]))
}

permitted if data.readable[input.account][input.secret][input.verb]

denied if {
    some prefix in data.denied[input.namespace]
    startswith(input.secret, prefix)
}
"#;

impl Rego {
    pub(crate) fn new(rules: &Rules, questions: &[Question]) -> Self {
        let (mut readable, mut denied) = (Map::new(), Map::new());
        for namespace in rules.namespaces() {
            let verbs = json!({named(&namespace): {"get": true}});
            readable.insert(account(&namespace), verbs);
            denied.insert(namespace.clone(), json!([root(&namespace)]));
        }
        let data = value(&json!({"readable": readable, "denied": denied}));
        let mut compiler = Compiler::new();
        compiler.add_policy("mesh.rego".to_owned(), POLICY.to_owned()).expect("a policy");
        compiler.add_data(data.clone()).expect("an object");
        let policy = compiler.compile_with_entrypoint(&ALLOW.into()).expect("compiles");
        let program =
            regorus::languages::rego::compiler::Compiler::compile_from_policy(&policy, &[ALLOW]);
        let mut machine = RegoVM::new();
        machine.load_program(Arc::clone(&program.expect("compiles")));
        machine.set_data(data).expect("no conflict");
        let question = |question: &Question| {
            value(&json!({
                "namespace": question.namespace,
                "account": question.account,
                "secret": question.secret,
                "verb": "get",
            }))
        };
        Self { machine, questions: questions.iter().map(question).collect() }
    }
}

impl Engine for Rego {
    fn name(&self) -> &'static str {
        "Rego, rules as data"
    }

    fn allows(&mut self, question: usize) -> bool {
        self.machine.set_input(self.questions[question].clone());
        self.machine.execute().expect("an answer") == Value::from(true)
    }
}

fn value(json: &serde_json::Value) -> Value {
    Value::from_json_str(&json.to_string()).expect("JSON")
}
