use super::{Basic, Class, Field, Fields, Simple};
use crate::Value;
use std::collections::BTreeMap;

impl Fields {
    /// The description as a JSON Schema (draft 2020-12), for editors and other validators. Texts in `language`.
    ///
    /// What a schema cannot say (special types but those that have a format, uniqueness among instances) is left out: it
    /// accepts all that [`validate`](Self::validate) accepts in the types it names, and more.
    #[must_use]
    pub fn json_schema(&self, title: &str, language: &str) -> Value {
        let mut schema = self.object(language);
        schema.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
        schema.insert("title".to_owned(), title.into());
        Value::Struct(schema)
    }

    fn object(&self, language: &str) -> BTreeMap<String, Value> {
        let properties: Value = self.0.iter().map(|f| (f.name.clone(), f.schema(language))).collect();
        let required =
            self.0.iter().filter(|field| field.must_be_given()).map(|f| Value::from(f.name.as_str()));
        BTreeMap::from([
            ("type".to_owned(), "object".into()),
            ("properties".to_owned(), properties),
            ("required".to_owned(), required.collect()),
            ("additionalProperties".to_owned(), false.into()),
        ])
    }
}

impl Field {
    fn must_be_given(&self) -> bool {
        if let Some(count) = self.array {
            return count.min > 0;
        }
        let default = matches!(&self.class, Class::Simple(simple) if simple.default.is_some());
        self.required && !default
    }

    fn schema(&self, language: &str) -> Value {
        let mut one = match &self.class {
            Class::Simple(simple) => simple.schema(),
            Class::Struct(fields) => fields.object(language),
        };
        if let Some(count) = self.array {
            let mut list = BTreeMap::from([
                ("type".to_owned(), Value::from("array")),
                ("items".to_owned(), Value::Struct(one)),
                ("minItems".to_owned(), size(count.min)),
            ]);
            if let Some(max) = count.max {
                list.insert("maxItems".to_owned(), size(max));
            }
            one = list;
        }
        one.insert("title".to_owned(), self.title(language).into());
        let texts = [self.short_text.get(language), self.long_text.get(language)];
        let description: Vec<&str> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        if !description.is_empty() {
            one.insert("description".to_owned(), description.join("\n\n").into());
        }
        Value::Struct(one)
    }
}

fn size(n: usize) -> Value {
    i64::try_from(n).unwrap_or(i64::MAX).into()
}

impl Simple {
    fn schema(&self) -> BTreeMap<String, Value> {
        let mut out = BTreeMap::new();
        let mut put = |name: &str, value: Value| drop(out.insert(name.to_owned(), value));
        put(
            "type",
            match self.basic {
                Basic::String | Basic::Enum => "string".into(),
                Basic::Integer => "integer".into(),
                Basic::Float => "number".into(),
                Basic::Boolean => "boolean".into(),
            },
        );
        if self.basic == Basic::Enum {
            put("enum", self.choices.iter().map(|choice| Value::from(choice.value.as_str())).collect());
        }
        if let Some(length) = self.length {
            put("maxLength", size(length));
        }
        if let Some(pattern) = &self.regex {
            put("pattern", format!("^(?:{pattern})$").into());
        }
        if let Some(min) = self.min {
            put("minimum", min.into());
        }
        if let Some(max) = self.max {
            put("maximum", max.into());
        }
        if let Some(default) = self.default.as_ref().filter(|_default| !self.secret) {
            put("default", default.clone());
        }
        let format = match self.special.as_deref() {
            Some("IPv4") => "ipv4",
            Some("IPv6") => "ipv6",
            Some("hostname") => "hostname",
            Some("URL") => "uri",
            Some("email") => "email",
            _ => "",
        };
        if !format.is_empty() && self.basic == Basic::String {
            put("format", format.into());
        }
        if self.read_only {
            put("readOnly", true.into());
        }
        if self.secret {
            put("writeOnly", true.into());
        }
        if self.deprecated.is_some() {
            put("deprecated", true.into());
        }
        out
    }
}
