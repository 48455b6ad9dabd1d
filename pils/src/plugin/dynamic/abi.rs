//! The C interface between this program and its modules.
//!
//! A module has a symbol [`SYMBOL`], a [`Declaration`]. Its first three fields never move, so that any version can tell any
//! other why they do not fit. All functions may be called from any thread; of one instance one at a time. None may unwind.
//!
//! ```c
//! struct slice  { const uint8_t *bytes; size_t length; };              // lent for the call
//! struct buffer { uint8_t *bytes; size_t length; size_t capacity; };   // given; goes back through free_buffer
//! struct host   { uint32_t size; void (*log)(uint32_t level, struct slice text); }; // 1 error .. 4 debug; lives for ever
//! struct declaration {
//!     uint64_t magic;                 // 0x4f434650494c5301
//!     uint16_t major, minor;          // 1, 0
//!     uint32_t size;                  // of this structure
//!     int32_t (*describe)(struct buffer *answer);
//!     int32_t (*open)(struct slice plugin, const struct host *, void **instance, struct buffer *answer);
//!     int32_t (*call)(void *instance, struct slice request, struct buffer *answer);
//!     void (*close)(void *instance);
//!     void (*free_buffer)(struct buffer);
//! };
//! extern const struct declaration ocf_pils_module;
//! ```
//!
//! `describe` answers with a list of descriptions; `plugin` is `type/name`; a request is a list of the method's name and a list
//! of its arguments. All are values in the encoding of [`Binary`]. Results: 0, the answer is a value; 1, a fault, the answer a
//! list of its code and text; 2, a panic, the answer its text.
#![expect(unsafe_code, reason = "a C interface: this is the one file of the crate that has it")]

use crate::Value;
use crate::codec::xmlrpc::Fault;
use crate::codec::{Binary, Limits, ValueCodec as _};
use crate::plugin::{Callee, Description};
use core::ffi::c_void;
use core::fmt;
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

/// The first field of a [`Declaration`].
pub const MAGIC: u64 = u64::from_be_bytes(*b"OCFPILS\x01");
/// The version of this interface: a module of another major version is refused.
pub const MAJOR: u16 = 1;
/// Raised when something is added at the end of a structure.
pub const MINOR: u16 = 0;
/// The name of the module's declaration.
pub const SYMBOL: &str = "ocf_pils_module";

const OK: i32 = 0;
const FAULT: i32 = 1;
const PANIC: i32 = 2;

/// Bytes that are lent for the time of a call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    bytes: *const u8,
    length: usize,
}

/// Bytes that are given away, and come back to be freed by who made them.
#[repr(C)]
#[derive(Debug)]
pub struct Buffer {
    bytes: *mut u8,
    length: usize,
    capacity: usize,
}

/// What a module may use of the host. Lives as long as the process.
#[repr(C)]
#[derive(Debug)]
pub struct Host {
    size: u32,
    log: extern "C" fn(u32, Slice),
}

/// What is the same in every version of a [`Declaration`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Head {
    magic: u64,
    major: u16,
    minor: u16,
    size: u32,
}

/// What a module exports.
#[repr(C)]
#[derive(Debug)]
pub struct Declaration {
    head: Head,
    describe: extern "C" fn(*mut Buffer) -> i32,
    open: extern "C" fn(Slice, *const Host, *mut *mut c_void, *mut Buffer) -> i32,
    call: extern "C" fn(*mut c_void, Slice, *mut Buffer) -> i32,
    close: extern "C" fn(*mut c_void),
    free_buffer: extern "C" fn(Buffer),
}

/// Sizes of structures in these interfaces fit.
#[expect(clippy::cast_possible_truncation, reason = "a structure of some ten pointers")]
const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

impl Slice {
    const fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.as_ptr(), length: bytes.len() }
    }

    /// # Safety
    /// The bytes are there, and stay for `'a`.
    const unsafe fn get<'a>(self) -> &'a [u8] {
        if self.bytes.is_null() {
            return &[];
        }
        // SAFETY: the caller says so
        unsafe { core::slice::from_raw_parts(self.bytes, self.length) }
    }
}

impl Buffer {
    const EMPTY: Self = Self { bytes: core::ptr::null_mut(), length: 0, capacity: 0 };

    fn of(bytes: Vec<u8>) -> Self {
        let mut bytes = core::mem::ManuallyDrop::new(bytes);
        Self { bytes: bytes.as_mut_ptr(), length: bytes.len(), capacity: bytes.capacity() }
    }
}

// ---- the module's side

/// What the author of a module writes; [`export_module!`](crate::export_module) makes it a [`Declaration`].
pub trait Module {
    /// What plug-ins it has.
    fn describe() -> Vec<Description>;

    /// Opens one of them.
    ///
    /// # Errors
    /// Why it cannot be opened.
    fn open(plugin: &Description, log: Log) -> Result<Box<dyn Callee>, Fault>;
}

/// Writes to the log of the host.
#[derive(Clone, Copy, Debug)]
pub struct Log(Option<extern "C" fn(u32, Slice)>);

impl Log {
    /// An event that somebody should look at.
    pub fn warn(self, text: &str) {
        self.write(2, text);
    }

    /// An event of interest.
    pub fn info(self, text: &str) {
        self.write(3, text);
    }

    fn write(self, level: u32, text: &str) {
        if let Some(log) = self.0 {
            log(level, Slice::of(text.as_bytes()));
        }
    }
}

impl Declaration {
    /// The declaration of a module.
    #[must_use]
    pub const fn of<M: Module>() -> Self {
        Self {
            head: Head { magic: MAGIC, major: MAJOR, minor: MINOR, size: size::<Self>() },
            describe: describe::<M>,
            open: open::<M>,
            call,
            close,
            free_buffer,
        }
    }
}

/// Runs a part of a module; its result, fault or panic is the answer.
fn guarded(answer: *mut Buffer, run: impl FnOnce() -> Result<Value, Fault>) -> i32 {
    let (status, bytes) = match catch_unwind(AssertUnwindSafe(|| encode(run()))) {
        Ok(done) => done,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            // dropping what was thrown may throw again
            core::mem::forget(panic);
            (PANIC, text.unwrap_or_else(|| "with no text".to_owned()).into_bytes())
        }
    };
    // SAFETY: the host gives a place for the answer
    unsafe { answer.write(Buffer::of(bytes)) };
    status
}

fn encode(result: Result<Value, Fault>) -> (i32, Vec<u8>) {
    let fault = |fault: Fault| {
        let value = Value::List(vec![fault.code.into(), fault.text.into()]);
        (FAULT, Binary.encode(&value).unwrap_or_default())
    };
    match result.map(|value| Binary.encode(&value)) {
        Ok(Ok(bytes)) => (OK, bytes),
        Ok(Err(error)) => fault(Fault { code: Fault::INTERNAL, text: error.to_string() }),
        Err(error) => fault(error),
    }
}

extern "C" fn describe<M: Module>(answer: *mut Buffer) -> i32 {
    guarded(answer, || {
        let mismatch =
            |error: crate::value::Mismatch| Fault { code: Fault::INTERNAL, text: error.to_string() };
        crate::value::to_value(&M::describe()).map_err(mismatch)
    })
}

extern "C" fn open<M: Module>(
    plugin: Slice,
    host: *const Host,
    instance: *mut *mut c_void,
    answer: *mut Buffer,
) -> i32 {
    guarded(answer, || {
        // SAFETY: lent for the call
        let wanted = unsafe { plugin.get() };
        // SAFETY: null, or a host that lives as long as the process
        let log = unsafe { host.as_ref() }.filter(|host| host.size >= size::<Host>()).map(|host| host.log);
        let all = M::describe();
        let same = |d: &&Description| format!("{}/{}", d.plugin_type, d.name).as_bytes() == wanted;
        let unknown = || Fault { code: Fault::INVALID_PARAMS, text: "no such plug-in".to_owned() };
        let callee = M::open(all.iter().find(same).ok_or_else(unknown)?, Log(log))?;
        let callee: *mut Box<dyn Callee> = Box::into_raw(Box::new(callee));
        // SAFETY: the host gives a place for the instance
        unsafe { instance.write(callee.cast()) };
        Ok(Value::Nil)
    })
}

extern "C" fn call(instance: *mut c_void, request: Slice, answer: *mut Buffer) -> i32 {
    guarded(answer, || {
        // SAFETY: `open` made it, `close` was not called yet, and the host calls one at a time
        let callee = unsafe { &mut *instance.cast::<Box<dyn Callee>>() };
        // SAFETY: lent for the call
        let request = unsafe { request.get() };
        let bad = |text: &str| Fault { code: Fault::INVALID_REQUEST, text: text.to_owned() };
        let limits = Limits { bytes_max: request.len(), ..Limits::default() };
        let request = Binary.decode(request, &limits).map_err(|error| bad(&error.to_string()))?;
        let method = request.at(0).and_then(Value::as_text).ok_or_else(|| bad("no method"))?;
        let params = request.at(1).and_then(Value::as_list).ok_or_else(|| bad("no arguments"))?;
        callee.call(method, params)
    })
}

extern "C" fn close(instance: *mut c_void) {
    if instance.is_null() {
        return;
    }
    // SAFETY: `open` made it, and it is closed once
    let callee = unsafe { Box::from_raw(instance.cast::<Box<dyn Callee>>()) };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(callee))) {
        core::mem::forget(panic);
    }
}

extern "C" fn free_buffer(buffer: Buffer) {
    if !buffer.bytes.is_null() {
        // SAFETY: it was made of a vector by `Buffer::of`, in this module
        drop(unsafe { Vec::from_raw_parts(buffer.bytes, buffer.length, buffer.capacity) });
    }
}

/// Opens a plug-in of a module that is compiled in, through the same interface: for the tests of modules.
///
/// # Errors
/// Why it cannot be opened.
pub fn open_plugin<M: Module>(plugin: &Description) -> Result<Box<dyn Callee>, Fault> {
    M::open(plugin, Log(None))
}

/// Makes the type `$module`, a [`Module`](crate::plugin::dynamic::Module), what this shared object exports. Once in a crate of
/// the type `cdylib`; the crate must allow `unsafe_code` for the one name that it exports.
#[macro_export]
macro_rules! export_module {
    ($module:ty) => {
        /// What this module exports.
        #[allow(unsafe_code, non_upper_case_globals, reason = "the name is the interface")]
        #[unsafe(no_mangle)]
        pub static ocf_pils_module: $crate::plugin::dynamic::Declaration =
            $crate::plugin::dynamic::Declaration::of::<$module>();
    };
}

// ---- the host's side

extern "C" fn log(level: u32, text: Slice) {
    // SAFETY: lent for the call
    let text = String::from_utf8_lossy(unsafe { text.get() });
    match level {
        0 | 1 => tracing::error!(%text, "module"),
        2 => tracing::warn!(%text, "module"),
        3 => tracing::info!(%text, "module"),
        _ => tracing::debug!(%text, "module"),
    }
}

static HOST: Host = Host { size: size::<Host>(), log };

/// Why something of a module was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// It says no; the bytes of the fault.
    Fault(Vec<u8>),
    Panicked(String),
    Broken(&'static str),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(bytes) => {
                let value = Binary.decode(bytes, &Limits::default()).unwrap_or_default();
                f.write_str(value.at(1).and_then(Value::as_text).unwrap_or("it says no"))
            }
            Self::Panicked(text) => write!(f, "it panicked: {text}"),
            Self::Broken(what) => f.write_str(what),
        }
    }
}

/// A module that was opened and speaks our version. It is closed when the last of its instances is.
pub(super) struct Library {
    declaration: *const Declaration,
    /// Owns what `declaration` points into.
    _library: libloading::Library,
}

// SAFETY: the declaration does not change, and its functions may be called from any thread
unsafe impl Send for Library {}
// SAFETY: as above
unsafe impl Sync for Library {}

impl Library {
    pub(super) fn open(file: &Path) -> Result<Self, String> {
        // a path without a slash would be searched for
        let file = file.canonicalize().map_err(|error| format!("cannot be read: {error}"))?;
        // SAFETY: its initialisers run; the documentation says what that means
        let library = unsafe { libloading::Library::new(&file) };
        let library = library.map_err(|error| format!("cannot be opened: {error}"))?;
        // SAFETY: a pointer is made, nothing is read
        let found = unsafe { library.get::<*const Declaration>(SYMBOL) };
        let declaration = *found.map_err(|_error| format!("is no module: it has no symbol {SYMBOL}"))?;
        // SAFETY: the symbol is at least as long as the head, which is the same in every version
        let Head { magic, major, minor, size: length } =
            unsafe { declaration.cast::<Head>().read_unaligned() };
        if magic != MAGIC {
            return Err(format!("is no module: its symbol {SYMBOL} is something else"));
        }
        if major != MAJOR || length < size::<Declaration>() {
            return Err(format!(
                "was made for version {major}.{minor} of the module interface, and this program has {MAJOR}.{MINOR}; \
                 build it with a fitting pils"
            ));
        }
        Ok(Self { declaration, _library: library })
    }

    const fn declaration(&self) -> &Declaration {
        // SAFETY: checked when it was opened, and open as long as this
        unsafe { &*self.declaration }
    }

    /// The answer, as bytes of ours.
    fn take(&self, answer: Buffer) -> Vec<u8> {
        let lent = Slice { bytes: answer.bytes, length: answer.length };
        // SAFETY: given to us until it is freed
        let bytes = unsafe { lent.get() }.to_vec();
        (self.declaration().free_buffer)(answer);
        bytes
    }

    fn outcome(&self, status: i32, answer: Buffer) -> Result<Vec<u8>, Failure> {
        let bytes = self.take(answer);
        match status {
            OK => Ok(bytes),
            FAULT => Err(Failure::Fault(bytes)),
            PANIC => Err(Failure::Panicked(String::from_utf8_lossy(&bytes).into_owned())),
            _ => Err(Failure::Broken("it answered with a status that there is not")),
        }
    }

    pub(super) fn describe(&self) -> Result<Vec<u8>, Failure> {
        let mut answer = Buffer::EMPTY;
        let status = (self.declaration().describe)(&raw mut answer);
        self.outcome(status, answer)
    }

    pub(super) fn instance(self: &Arc<Self>, plugin: &Description) -> Result<Instance, Failure> {
        let wanted = format!("{}/{}", plugin.plugin_type, plugin.name);
        let (mut answer, mut instance) = (Buffer::EMPTY, core::ptr::null_mut());
        let open = self.declaration().open;
        let status = open(Slice::of(wanted.as_bytes()), &raw const HOST, &raw mut instance, &raw mut answer);
        self.outcome(status, answer)?;
        if instance.is_null() {
            return Err(Failure::Broken("it gave no instance"));
        }
        Ok(Instance { library: Arc::clone(self), instance: Mutex::new(Pointer(instance)) })
    }
}

struct Pointer(*mut c_void);

// SAFETY: an instance may be called from any thread, one call at a time
unsafe impl Send for Pointer {}

/// A plug-in of a module that was opened.
pub(super) struct Instance {
    library: Arc<Library>,
    instance: Mutex<Pointer>,
}

impl Instance {
    pub(super) fn call(&self, request: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut answer = Buffer::EMPTY;
        let instance = self.instance.lock();
        let status = (self.library.declaration().call)(instance.0, Slice::of(request), &raw mut answer);
        drop(instance);
        self.library.outcome(status, answer)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let instance = self.instance.get_mut();
        (self.library.declaration().close)(instance.0);
    }
}
