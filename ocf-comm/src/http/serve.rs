use super::{HttpConfig, users};
use crate::rpc::{Call, Caller, Dispatcher, Fault, Responder};
use bytes::Bytes;
use core::convert::Infallible;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, WWW_AUTHENTICATE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use pils::codec::Limits;
use pils::codec::xmlrpc::Response as XmlResponse;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::timeout;

/// Bytes of the head of a request.
const HEAD_MAX: usize = 16 << 10;
/// Headers of a request.
const HEADERS_MAX: usize = 64;

/// What all connections share.
pub(super) struct Shared {
    config: HttpConfig,
    dispatcher: Dispatcher,
}

impl Shared {
    pub(super) const fn new(config: HttpConfig, dispatcher: Dispatcher) -> Self {
        Self { config, dispatcher }
    }
}

/// Accepts until told to stop. Connections end with it.
pub(super) async fn run(listener: TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the http server cannot watch its socket");
            return;
        }
    };
    let places = Arc::new(Semaphore::new(shared.config.connections_max.max(1)));
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let Some((accepted, place)) = unless(accepted, stopped.changed()).await else { return };
        match accepted {
            Ok((stream, peer)) => {
                let shared = Arc::clone(&shared);
                drop(tokio::spawn(async move {
                    connection(shared, stream, peer).await;
                    drop(place);
                }));
            }
            Err(error) => {
                // No descriptors left: some may be soon.
                tracing::warn!(%error, "cannot accept over http");
                tokio::time::sleep(core::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// What `work` gives, or `None` if `end` is first.
async fn unless<T>(work: impl Future<Output = T>, end: impl Future) -> Option<T> {
    let (mut work, mut end) = (pin!(work), pin!(end));
    poll_fn(|cx| {
        if end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        work.as_mut().poll(cx).map(Some)
    })
    .await
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    let life = shared.config.connection_max;
    let head_within = shared.config.request_within;
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(respond(&shared, peer, request).await) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_within)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .half_close(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(life, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%peer, %error, "an http connection ended"),
        Err(_) => tracing::debug!(%peer, "an http connection lived too long"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    // Whatever is left of the request is not worth reading.
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// False if the request was meant for a host with a name of its own: a page in a browser whose name an attacker let point here.
fn is_local(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host.and_then(|host| host.to_str().ok()) else { return true };
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost")
        || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok()
}

async fn respond(shared: &Shared, peer: SocketAddr, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let config = &shared.config;
    if request.uri().path() != config.path {
        return plain(StatusCode::NOT_FOUND, "not found\n");
    }
    if config.bind.ip().is_loopback() && !is_local(request.headers().get(HOST)) {
        return plain(StatusCode::MISDIRECTED_REQUEST, "this server is for this machine\n");
    }
    if request.method() != Method::POST {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "XML-RPC is posted\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    // A page in a browser cannot send this type across origins without asking first, which nobody answers.
    let kind = request.headers().get(CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if !(kind.eq_ignore_ascii_case(b"text/xml") || kind.eq_ignore_ascii_case(b"application/xml")) {
        return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "XML-RPC is text/xml\n");
    }
    let shown = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let user = shown.and_then(|header| users::find(&config.users, header)).map(|user| user.name().to_owned());
    if !config.users.is_empty() && user.is_none() {
        let mut response = plain(StatusCode::UNAUTHORIZED, "show who you are\n");
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"ocf\", Bearer"));
        return response;
    }
    let body = Limited::new(request.into_body(), config.body_max).collect();
    let body = match timeout(config.request_within, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return plain(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large\n");
        }
        Ok(Err(_)) => return plain(StatusCode::BAD_REQUEST, "the request broke off\n"),
        Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the request takes too long\n"),
    };
    let reply = call(shared, Caller::Http { peer, user }, &body).await;
    let xml = XmlResponse(reply).to_xml().unwrap_or_else(|error| {
        let fault = Fault::new(Fault::INTERNAL, format!("the result cannot be written: {error}"));
        XmlResponse(Err(fault)).to_xml().unwrap_or_default()
    });
    let mut response = Response::new(Full::new(Bytes::from(xml)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/xml; charset=utf-8"));
    response
}

async fn call(shared: &Shared, caller: Caller, body: &Bytes) -> crate::rpc::Reply {
    let limits = Limits { bytes_max: shared.config.body_max, ..Limits::default() };
    let call = Call::from_xml(body, &limits)?;
    let (sender, answer) = oneshot::channel();
    let responder = Responder::new(move |reply| {
        if sender.send(reply).is_err() {
            tracing::debug!("an answer came after the http caller had gone");
        }
    });
    shared.dispatcher.call(&caller, call, responder);
    match timeout(shared.config.answer_within, answer).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(_)) => Err(Fault::new(Fault::INTERNAL, "the method ended without an answer")),
        Err(_) => Err(Fault::new(Fault::SYSTEM, "no answer in time; the method may still run")),
    }
}
