use core::fmt;
use pils::Value;
use pils::codec::xmlrpc::Fault;

/// What a method returns.
pub type Reply = Result<Value, Fault>;

type Answer<T> = Box<dyn FnOnce(Result<T, Fault>) + Send>;

/// The way back to who called: used exactly once. Given to methods that answer later, from any thread.
///
/// Dropping it without an answer tells the caller of an internal error, so that nobody waits in vain.
pub struct Responder<T = Value> {
    answer: Option<Answer<T>>,
}

impl<T> fmt::Debug for Responder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("answered", &self.answer.is_none()).finish()
    }
}

impl<T> Responder<T> {
    /// A way back that calls `answer` once.
    pub fn new(answer: impl FnOnce(Result<T, Fault>) + Send + 'static) -> Self {
        Self { answer: Some(Box::new(answer)) }
    }

    /// Answers.
    pub fn answer(mut self, reply: Result<T, Fault>) {
        if let Some(answer) = self.answer.take() {
            answer(reply);
        }
    }
}

impl<T> Drop for Responder<T> {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            answer(Err(Fault::new(Fault::INTERNAL, "the method ended without an answer")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_responder_answers_exactly_once_even_if_it_is_forgotten() {
        let (sender, answers) = mpsc::channel();
        let other = sender.clone();
        Responder::new(move |reply| sender.send(reply).unwrap()).answer(Ok(Value::Int(1)));
        drop(Responder::new(move |reply| other.send(reply).unwrap()));
        let answers: Vec<Reply> = answers.iter().collect();
        assert_eq!(answers[0], Ok(Value::Int(1)));
        assert!(matches!(&answers[1], Err(fault) if fault.code == Fault::INTERNAL));
        assert_eq!(answers.len(), 2);
    }
}
