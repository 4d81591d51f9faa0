//! The child: the only place that loads a PKCS#11 module.

use std::{
    collections::HashMap,
    ffi::c_ulong,
    fs::File,
    io::{self, BufRead as _, BufReader, Write as _},
    num::NonZeroUsize,
    process::ExitCode,
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    mechanism::{Mechanism, MechanismType, vendor_defined::VendorDefinedMechanism},
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
    session::{Session, SessionState, UserType},
    slot::Slot,
};
use nix::{
    sys::{
        prctl,
        resource::{Resource, setrlimit},
    },
    unistd::{Uid, alarm, dup2_stdin, dup2_stdout, getgroups, getresgid, getresuid, setresuid},
};
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::{
    Ciphertext, DataMechanism, HmacKeyType, HmacMechanism, Identity, Proof, Selector, TokenInfo, Verdict,
    WrapMechanism, WrappedKek,
    protocol::{Failure, Open, Reply, Request, Signed},
};

/// Size of a block, and of the GCM tag.
const BLOCK: usize = 16;

/// The worker's `main`: answers requests until stdin ends. Of no use on a terminal.
#[must_use]
pub fn worker_main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "hsm-worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    harden()?;
    let (mut input, mut output) = take_pipes()?;
    let mut token: Option<Token> = None;
    let mut alarm_seconds = 0;
    loop {
        let mut line = Zeroizing::new(Vec::with_capacity(8 * 1024));
        if input.read_until(b'\n', &mut line)? == 0 {
            alarm::set(alarm_seconds);
            token.into_iter().for_each(Token::close);
            return Ok(());
        }
        let request = serde_json::from_slice(&line).map_err(|_| io::Error::other("not a request"))?;
        if let Request::Open(open) = &request {
            alarm_seconds = open.alarm_seconds;
        }
        alarm::set(alarm_seconds);
        let reply = answer(&mut token, request).unwrap_or_else(|failure| Reply::Failed { failure });
        alarm::cancel();
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        output.write_all(&text)?;
    }
}

/// No core dump, no ptrace, no new privileges: the PIN and plaintexts pass through here.
fn harden() -> io::Result<()> {
    prctl::set_dumpable(false)?;
    prctl::set_no_new_privs()?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// Moves the pipes out of a module's reach: one that reads stdin finds nothing, one that prints to
/// stdout prints to stderr.
fn take_pipes() -> io::Result<(BufReader<File>, File)> {
    let input = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 64)?;
    let output = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 64)?;
    dup2_stdin(File::open("/dev/null")?)?;
    dup2_stdout(io::stderr())?;
    Ok((BufReader::new(input.into()), output.into()))
}

fn answer(token: &mut Option<Token>, request: Request) -> Result<Reply, Failure> {
    match (token, request) {
        (token @ None, Request::Open(open)) => {
            let opened = Token::open(&open)?;
            let info = opened.info.clone();
            *token = Some(opened);
            Ok(Reply::Opened { token: info })
        }
        (Some(token), Request::Verify { label, data, signature }) => {
            Ok(Reply::Verdict { verdict: token.verify(&label, &data, &signature)? })
        }
        (Some(token), Request::Sign { label, data }) => Ok(Reply::Signature { signed: token.sign(&label, &data)? }),
        (Some(token), Request::Prove { kek, secret }) => Ok(Reply::Proof { proof: token.prove(&kek, &secret)? }),
        _ => Err(Failure::Other { why: "was asked out of order".to_owned() }),
    }
}

/// Checks that we are who we should have become, and that there is no way back.
fn check_identity(identity: &Identity) -> nix::Result<bool> {
    let users = getresuid()?;
    let groups = getresgid()?;
    let mut supplementary: Vec<u32> = getgroups()?.into_iter().map(nix::unistd::Gid::as_raw).collect();
    let mut expected = identity.groups.clone();
    for list in [&mut supplementary, &mut expected] {
        list.retain(|&gid| gid != identity.gid);
        list.sort_unstable();
        list.dedup();
    }
    let as_wanted = [users.real, users.effective, users.saved].iter().all(|id| id.as_raw() == identity.uid)
        && [groups.real, groups.effective, groups.saved].iter().all(|id| id.as_raw() == identity.gid)
        && supplementary == expected;
    let root = Uid::from_raw(0);
    let regained = identity.uid != 0 && setresuid(root, root, root).is_ok();
    Ok(as_wanted && !regained)
}

/// What a key is for: part of how it is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Use {
    Wrap,
    Sign,
}

/// A logged-in session.
struct Token {
    session: Session,
    info: TokenInfo,
    hmac_key_type: HmacKeyType,
    hmac_mechanism: HmacMechanism,
    handles: HashMap<(Use, String), ObjectHandle>,
    /// The last KEK unwrapped, for the next payload under it.
    unwrapped: Option<(WrappedKek, ObjectHandle)>,
    module: Pkcs11,
}

impl Token {
    fn open(open: &Open) -> Result<Self, Failure> {
        if let Some(identity) = &open.identity
            && !check_identity(identity).unwrap_or(false)
        {
            let why = format!("did not become uid {} for good", identity.uid);
            return Err(Failure::Other { why });
        }
        let module = load(open)?;
        let info = choose(&module, &open.token)?;
        let slot = Slot::try_from(info.slot).map_err(failure)?;
        let session = if open.rw_session { module.open_rw_session(slot) } else { module.open_ro_session(slot) }
            .map_err(failure)?;
        log_in(&module, slot, &session, &info, open)?;
        Ok(Self {
            session,
            info,
            hmac_key_type: open.hmac_key_type,
            hmac_mechanism: open.hmac_mechanism,
            handles: HashMap::new(),
            unwrapped: None,
            module,
        })
    }

    /// Logs out and ends the module. Errors have nobody left to tell.
    fn close(mut self) {
        let _ = self.forget();
        let _ = self.session.logout();
        let _ = self.session.close();
        let _ = self.module.finalize();
    }

    /// The key of that label. Two of them are an error, as in Barbican.
    fn key(&mut self, purpose: Use, label: &str) -> Result<Option<ObjectHandle>, Failure> {
        if let Some(&handle) = self.handles.get(&(purpose, label.to_owned())) {
            return Ok(Some(handle));
        }
        let key_type = match purpose {
            Use::Wrap => KeyType::AES,
            Use::Sign => KeyType::try_from(self.hmac_key_type.number()).map_err(failure)?,
        };
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(key_type),
            Attribute::Label(label.as_bytes().to_vec()),
        ];
        let two = NonZeroUsize::MIN.saturating_add(1);
        let found: Vec<ObjectHandle> = self
            .session
            .iter_objects_with_cache_size(&template, two)
            .and_then(|objects| objects.take(2).collect())
            .map_err(failure)?;
        match found.as_slice() {
            [] => Ok(None),
            [handle] => {
                self.handles.insert((purpose, label.to_owned()), *handle);
                Ok(Some(*handle))
            }
            _ => Err(Failure::KeyAmbiguous { label: label.to_owned() }),
        }
    }

    fn verify(&mut self, label: &str, data: &[u8], signature: &[u8]) -> Result<Verdict, Failure> {
        let Some(key) = self.key(Use::Sign, label)? else {
            return Ok(Verdict::KeyMissing { label: label.to_owned() });
        };
        let mechanism = plain(self.hmac_mechanism.number());
        match self.session.verify(&mechanism, key, data, signature) {
            Ok(()) => Ok(Verdict::Good),
            Err(Error::Pkcs11(RvError::SignatureInvalid | RvError::SignatureLenRange, _)) => Ok(Verdict::Bad),
            Err(error) => Err(failure(error)),
        }
    }

    fn sign(&mut self, label: &str, data: &[u8]) -> Result<Signed, Failure> {
        let Some(key) = self.key(Use::Sign, label)? else {
            return Ok(Signed::KeyMissing { label: label.to_owned() });
        };
        let mechanism = plain(self.hmac_mechanism.number());
        self.session.sign(&mechanism, key, data).map(Signed::Signature).map_err(failure)
    }

    fn prove(&mut self, kek: &WrappedKek, secret: &Ciphertext) -> Result<Proof, Failure> {
        let Some(mkek) = self.key(Use::Wrap, &kek.mkek_label)? else {
            return Ok(Proof::KeyMissing { label: kek.mkek_label.clone() });
        };
        let key = match self.unwrap(mkek, kek)? {
            Ok(key) => key,
            Err(ckr) => return Ok(Proof::Refused { ckr }),
        };
        let mut refusals = Vec::new();
        for &mechanism in &secret.mechanisms {
            match self.decrypt(mechanism, key, secret)? {
                Ok(len) => return Ok(Proof::Readable { mechanism, len }),
                Err(ckr) => refusals.push(format!("{mechanism}: {ckr}")),
            }
        }
        Ok(Proof::Refused { ckr: refusals.join(", ") })
    }

    /// The KEK as a session key, with the attributes Barbican gives it. The inner error is the
    /// token's refusal of this very KEK.
    fn unwrap(&mut self, mkek: ObjectHandle, kek: &WrappedKek) -> Result<Result<ObjectHandle, String>, Failure> {
        if let Some((known, handle)) = &self.unwrapped
            && known == kek
        {
            return Ok(Ok(*handle));
        }
        self.forget()?;
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Extractable(true),
        ];
        let session = &self.session;
        let call = |mechanism: &Mechanism| session.unwrap_key(mechanism, mkek, &kek.wrapped_key, &template);
        let Some(result) = with_iv(kek.mechanism, kek.iv.as_deref(), call) else {
            let len = kek.iv.as_ref().map_or(0, Vec::len);
            return Ok(Err(format!("an iv of {len} bytes does not fit {}", kek.mechanism)));
        };
        let handle = match or_refusal(result)? {
            Ok(handle) => handle,
            Err(ckr) => return Ok(Err(ckr)),
        };
        self.unwrapped = Some((kek.clone(), handle));
        Ok(Ok(handle))
    }

    /// Destroys the unwrapped KEK.
    fn forget(&mut self) -> Result<(), Failure> {
        match self.unwrapped.take() {
            Some((_, handle)) => self.session.destroy_object(handle).map_err(failure),
            None => Ok(()),
        }
    }

    /// Length of the payload. The inner error is the refusal of this ciphertext.
    fn decrypt(
        &self,
        mechanism: DataMechanism,
        key: ObjectHandle,
        secret: &Ciphertext,
    ) -> Result<Result<usize, String>, Failure> {
        let result = match mechanism {
            DataMechanism::AesCbc => {
                let Ok(iv) = <[u8; BLOCK]>::try_from(secret.iv.as_slice()) else {
                    return Ok(Err(format!("an iv of {} bytes", secret.iv.len())));
                };
                self.session.decrypt(&Mechanism::AesCbc(iv), key, &secret.data)
            }
            DataMechanism::SafenetAesGcm | DataMechanism::AesGcm => {
                let mut iv = secret.iv.clone();
                let params = GcmParams::new(&mut iv);
                let parameter = VendorDefinedMechanism::new(mechanism_type(mechanism.number()), Some(&params));
                self.session.decrypt(&Mechanism::VendorDefined(parameter), key, &secret.data)
            }
        };
        Ok(or_refusal(result.map(Zeroizing::new))?.and_then(|plain| {
            payload_len(mechanism, secret.iv.len(), &plain)
                .ok_or_else(|| "C_Decrypt succeeded, but the padding is wrong".to_owned())
        }))
    }
}

/// GCM's parameters as Barbican passes them, to its own number and to SafeNet's: iv with its
/// length in bytes and bits, no additional data (a null pointer), a tag of 128 bits.
#[repr(C)]
struct GcmParams {
    iv: *mut u8,
    iv_len: c_ulong,
    iv_bits: c_ulong,
    aad: *mut u8,
    aad_len: c_ulong,
    tag_bits: c_ulong,
}

impl GcmParams {
    /// The caller keeps `iv` alive and in place until the call is over.
    fn new(iv: &mut [u8]) -> Self {
        let len = c_ulong::try_from(iv.len()).unwrap_or(c_ulong::MAX);
        Self {
            iv: iv.as_mut_ptr(),
            iv_len: len,
            iv_bits: len.saturating_mul(8),
            aad: std::ptr::null_mut(),
            aad_len: 0,
            tag_bits: 8 * 16,
        }
    }
}

/// Length of the payload in a decrypted plaintext, as Barbican finds it; `None`: not a payload.
///
/// CBC is always padded. GCM is not, but up to Liberty Barbican padded before it encrypted, with
/// ivs of 16 bytes; so under such an iv whatever looks like padding is taken off.
fn payload_len(mechanism: DataMechanism, iv_len: usize, plain: &[u8]) -> Option<usize> {
    let padding = plain.last().map(|&byte| usize::from(byte)).filter(|&count| {
        (1..=BLOCK).contains(&count)
            && plain.len().is_multiple_of(BLOCK)
            && plain.iter().rev().take(count).all(|&byte| usize::from(byte) == count)
    });
    match mechanism {
        DataMechanism::AesCbc => padding.map(|count| plain.len() - count),
        DataMechanism::SafenetAesGcm | DataMechanism::AesGcm => {
            Some(plain.len() - padding.filter(|_| iv_len == BLOCK).unwrap_or(0))
        }
    }
}

/// Runs `call` with the key wrap mechanism and its iv; `None`: no iv of that length is known.
fn with_iv<R>(mechanism: WrapMechanism, iv: Option<&[u8]>, call: impl FnOnce(&Mechanism) -> R) -> Option<R> {
    let kind = mechanism_type(mechanism.number());
    let with = |parameter| call(&Mechanism::VendorDefined(parameter));
    let iv = iv.unwrap_or_default();
    if iv.is_empty() {
        Some(with(VendorDefinedMechanism::new::<u8>(kind, None)))
    } else if let Ok(iv) = <&[u8; 16]>::try_from(iv) {
        Some(with(VendorDefinedMechanism::new(kind, Some(iv))))
    } else if let Ok(iv) = <&[u8; 8]>::try_from(iv) {
        Some(with(VendorDefinedMechanism::new(kind, Some(iv))))
    } else if let Ok(iv) = <&[u8; 4]>::try_from(iv) {
        Some(with(VendorDefinedMechanism::new(kind, Some(iv))))
    } else {
        None
    }
}

/// A mechanism without parameter.
fn plain(number: c_ulong) -> Mechanism<'static> {
    Mechanism::VendorDefined(VendorDefinedMechanism::new::<u8>(mechanism_type(number), None))
}

/// The crate's type for any number; it has constructors for the mechanisms it knows and for
/// vendors' ones only, which leaves out `CKM_AES_MAC` and `CKM_AES_KEY_WRAP_KWP`.
fn mechanism_type(number: c_ulong) -> MechanismType {
    // SAFETY: MechanismType is a transparent wrapper around CK_MECHANISM_TYPE, an unsigned long.
    #[expect(unsafe_code, reason = "no safe constructor for two of Barbican's mechanisms")]
    unsafe {
        std::mem::transmute::<c_ulong, MechanismType>(number)
    }
}

fn load(open: &Open) -> Result<Pkcs11, Failure> {
    #[expect(clippy::disallowed_methods, reason = "this is the child process")]
    let loaded = Pkcs11::new(&open.module);
    let module = loaded.map_err(|error| Failure::NotLoaded {
        why: match error {
            Error::MissingSymbol(symbol) => {
                format!("it has no {symbol}, so it is no PKCS#11 module")
            }
            Error::LibraryLoading(error) => error.to_string(),
            error => code(&error),
        },
    })?;
    let flags = if open.os_locking_ok { CInitializeFlags::OS_LOCKING_OK } else { CInitializeFlags::empty() };
    match module.initialize(CInitializeArgs::new(flags)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(module),
        Err(error) => Err(Failure::NotLoaded { why: code(&error) }),
    }
}

/// The token Barbican would take.
fn choose(module: &Pkcs11, wanted: &Selector) -> Result<TokenInfo, Failure> {
    let slots = module.get_slots_with_token().map_err(failure)?;
    let tokens = || slots.iter().map(|&slot| token_info(module, slot)).collect::<Result<Vec<_>, _>>();
    let none = |wanted: String| Failure::NoToken {
        wanted,
        present: tokens()
            .unwrap_or_default()
            .iter()
            .map(|token| format!("{:?} serial {:?} slot {}", token.label, token.serial, token.slot))
            .collect(),
    };
    if let Some(serial) = &wanted.serial {
        let found = tokens().map_err(failure)?.into_iter().find(|token| token.serial == *serial);
        return found.ok_or_else(|| none(format!("serial number {serial:?}")));
    }
    if !wanted.labels.is_empty() {
        let found = tokens().map_err(failure)?.into_iter().find(|token| wanted.labels.contains(&token.label));
        return found.ok_or_else(|| none(format!("label {}", wanted.labels.join(" or "))));
    }
    let Some(id) = wanted.slot else {
        return Err(none("a serial number, label or slot, none of which is configured,".to_owned()));
    };
    let slot = Slot::try_from(id).map_err(failure)?;
    match token_info(module, slot) {
        Ok(token) => Ok(token),
        Err(Error::Pkcs11(RvError::SlotIdInvalid | RvError::TokenNotPresent | RvError::TokenNotRecognized, _)) => {
            Err(none(format!("slot id {id}")))
        }
        Err(error) => Err(failure(error)),
    }
}

fn token_info(module: &Pkcs11, slot: Slot) -> cryptoki::error::Result<TokenInfo> {
    let info = module.get_token_info(slot)?;
    // Up to the first NUL, white space trimmed: some modules do not pad with blanks.
    let text = |field: &str| field.split('\0').next().unwrap_or_default().trim().to_owned();
    Ok(TokenInfo {
        serial: text(info.serial_number()),
        label: text(info.label()),
        slot: slot.id(),
        manufacturer: text(info.manufacturer_id()),
    })
}

/// Logs in if the session is public: one attempt, and none where a wrong PIN would be the last.
fn log_in(module: &Pkcs11, slot: Slot, session: &Session, info: &TokenInfo, open: &Open) -> Result<(), Failure> {
    let state = session.get_session_info().map_err(failure)?.session_state();
    if !matches!(state, SessionState::RoPublic | SessionState::RwPublic) {
        return Ok(());
    }
    let flags = module.get_token_info(slot).map_err(failure)?;
    let at_risk = |why: &str| Failure::PinAtRisk { token: info.label.clone(), why: why.to_owned() };
    if flags.user_pin_locked() {
        return Err(at_risk("its PIN is locked; unlock it with the vendor's tool"));
    }
    if flags.user_pin_final_try() {
        return Err(at_risk(
            "one more wrong PIN would lock it; log in once with the right PIN by the vendor's tool or pkcs11-tool",
        ));
    }
    let pin = SecretString::from(open.pin.as_str());
    session.login(UserType::User, Some(&pin)).map_err(|error| match error {
        Error::Pkcs11(
            RvError::PinIncorrect
            | RvError::PinInvalid
            | RvError::PinLenRange
            | RvError::PinExpired
            | RvError::PinLocked,
            _,
        ) => Failure::PinRefused { token: info.label.clone(), ckr: code(&error) },
        error => failure(error),
    })
}

/// Tells the refusal of one record from trouble with the token. Codes that speak of device,
/// session, login or library are trouble, and so are vendors' own ones, whose meaning is unknown.
/// Those that speak of data, key or mechanism are the answer; so are the two general ones, which
/// is how SoftHSM 2.6.1 reports a wrong GCM tag.
fn or_refusal<T>(result: cryptoki::error::Result<T>) -> Result<Result<T, String>, Failure> {
    use RvError as R;
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) => {
            let refused = matches!(
                error,
                Error::Pkcs11(
                    R::EncryptedDataInvalid
                        | R::EncryptedDataLenRange
                        | R::DataInvalid
                        | R::DataLenRange
                        | R::WrappedKeyInvalid
                        | R::WrappedKeyLenRange
                        | R::UnwrappingKeySizeRange
                        | R::UnwrappingKeyTypeInconsistent
                        | R::KeyTypeInconsistent
                        | R::KeySizeRange
                        | R::KeyFunctionNotPermitted
                        | R::MechanismInvalid
                        | R::MechanismParamInvalid
                        | R::ArgumentsBad
                        | R::AttributeTypeInvalid
                        | R::AttributeValueInvalid
                        | R::TemplateIncomplete
                        | R::TemplateInconsistent
                        | R::GeneralError
                        | R::FunctionFailed,
                    _
                )
            );
            if refused { Ok(Err(code(&error))) } else { Err(failure(error)) }
        }
    }
}

fn failure(error: Error) -> Failure {
    match &error {
        Error::Pkcs11(ckr, function) => Failure::Ckr { function: format!("C_{function:?}"), ckr: ckr_name(ckr) },
        _ => Failure::Other { why: error.to_string() },
    }
}

/// "C_Decrypt: CKR_ENCRYPTED_DATA_INVALID".
fn code(error: &Error) -> String {
    match error {
        Error::Pkcs11(ckr, function) => format!("C_{function:?}: {}", ckr_name(ckr)),
        _ => error.to_string(),
    }
}

/// The name in the PKCS#11 header, made from the crate's: `PinIncorrect` -> `CKR_PIN_INCORRECT`.
fn ckr_name(ckr: &RvError) -> String {
    match ckr {
        RvError::VendorDefined(number) => return format!("CKR_VENDOR_DEFINED {number:#x}"),
        RvError::UnknownErrorCode(number) => return format!("CKR {number:#x}"),
        _ => {}
    }
    let mut name = String::from("CKR");
    for c in format!("{ckr:?}").chars() {
        if c.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_names_of_the_header() {
        assert_eq!(ckr_name(&RvError::PinIncorrect), "CKR_PIN_INCORRECT");
        assert_eq!(ckr_name(&RvError::UserNotLoggedIn), "CKR_USER_NOT_LOGGED_IN");
        assert_eq!(ckr_name(&RvError::VendorDefined(0x8100_0071)), "CKR_VENDOR_DEFINED 0x81000071");
    }

    #[test]
    fn cbc_must_be_padded() {
        let padded = b"payload.........".map(|b| if b == b'.' { 9 } else { b });
        assert_eq!(payload_len(DataMechanism::AesCbc, 16, &padded), Some(7));
        assert_eq!(payload_len(DataMechanism::AesCbc, 16, &[16; 16]), Some(0));
        assert_eq!(payload_len(DataMechanism::AesCbc, 16, &[17; 16]), None);
        assert_eq!(payload_len(DataMechanism::AesCbc, 16, &[0; 16]), None);
        assert_eq!(payload_len(DataMechanism::AesCbc, 16, b""), None);
        assert_eq!(payload_len(DataMechanism::AesCbc, 16, &[3, 3, 3]), None);
    }

    #[test]
    fn old_gcm_payloads_lose_what_looks_like_padding() {
        let padded = b"payload.........".map(|b| if b == b'.' { 9 } else { b });
        assert_eq!(payload_len(DataMechanism::AesGcm, 16, &padded), Some(7));
        assert_eq!(payload_len(DataMechanism::AesGcm, 12, &padded), Some(16));
        assert_eq!(payload_len(DataMechanism::SafenetAesGcm, 16, b"payload, unpadded"), Some(17));
        assert_eq!(payload_len(DataMechanism::AesGcm, 16, b""), Some(0));
    }

    #[test]
    fn trouble_with_the_token_is_no_verdict_on_the_record() {
        let with = |rv| or_refusal::<()>(Err(Error::Pkcs11(rv, cryptoki::context::Function::Decrypt)));
        assert!(matches!(with(RvError::EncryptedDataInvalid), Ok(Err(_))));
        for trouble in [
            RvError::DeviceError,
            RvError::SessionHandleInvalid,
            RvError::UserNotLoggedIn,
            RvError::VendorDefined(0x8100_0071),
        ] {
            assert!(with(trouble).is_err());
        }
    }
}
