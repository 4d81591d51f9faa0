//! The module, loaded: one logged-in session, and what is asked of it. Runs in the child only.

use std::{collections::HashMap, ffi::c_ulong, num::NonZeroUsize};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    mechanism::{Mechanism, MechanismType, vendor_defined::VendorDefinedMechanism},
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
    session::{Session, SessionState, UserType},
    slot::{Limit, Slot},
};
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::{
    Ciphertext, DataMechanism, Fit, HmacKeyType, HmacMechanism, Proof, Selector, TokenInfo, WrapMechanism, WrappedKek,
    protocol::{Failure, Open},
};

/// Size of a block, and of the GCM tag.
const BLOCK: usize = 16;

/// What a key is for: part of how it is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Use {
    Wrap,
    Sign,
}

/// A logged-in session.
pub(super) struct Token {
    session: Session,
    info: TokenInfo,
    hmac_key_type: HmacKeyType,
    hmac_mechanism: HmacMechanism,
    rw_session: bool,
    handles: HashMap<(Use, String), ObjectHandle>,
    /// Keys whose signatures were seen to verify: as they were read, and (true) as they are made anew.
    confirmed: Vec<(ObjectHandle, bool)>,
    /// Keys that may verify and not sign.
    verifies_only: Vec<ObjectHandle>,
    /// The last KEK unwrapped, for the next payload under it.
    unwrapped: Option<(WrappedKek, ObjectHandle)>,
    module: Pkcs11,
}

impl Token {
    /// Loads the module, chooses the token, logs in.
    pub(super) fn open(open: &Open) -> Result<Self, Failure> {
        let module = load(open)?;
        let info = choose(&module, &open.token)?;
        let slot = Slot::try_from(info.slot).map_err(|error| failure(&error))?;
        let session = if open.rw_session { module.open_rw_session(slot) } else { module.open_ro_session(slot) }
            .map_err(|error| failure(&error))?;
        log_in(&module, slot, &session, &info, open)?;
        Ok(Self {
            session,
            info,
            hmac_key_type: open.hmac_key_type,
            hmac_mechanism: open.hmac_mechanism,
            rw_session: open.rw_session,
            handles: HashMap::new(),
            confirmed: Vec::new(),
            verifies_only: Vec::new(),
            unwrapped: None,
            module,
        })
    }

    /// Logs out and ends the module. Errors have nobody left to tell.
    pub(super) fn close(mut self) {
        let _ = self.forget();
        let _ = self.session.logout();
        let _ = self.session.close();
        let _ = self.module.finalize();
    }

    pub(super) fn info(&self) -> &TokenInfo {
        &self.info
    }

    /// The key of that label. Two of them are an error, as in Barbican.
    fn key(&mut self, purpose: Use, label: &str) -> Result<Option<ObjectHandle>, Failure> {
        if let Some(&handle) = self.handles.get(&(purpose, label.to_owned())) {
            return Ok(Some(handle));
        }
        let key_type = match purpose {
            Use::Wrap => KeyType::AES,
            Use::Sign => KeyType::try_from(self.hmac_key_type.number()).map_err(|error| failure(&error))?,
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
            .map_err(|error| failure(&error))?;
        match found.as_slice() {
            [] => Ok(None),
            [handle] => {
                self.handles.insert((purpose, label.to_owned()), *handle);
                Ok(Some(*handle))
            }
            _ => Err(Failure::KeyAmbiguous { label: label.to_owned() }),
        }
    }

    /// How many sessions of the same kind the token has room for besides this one; none where it does not say.
    pub(super) fn more_sessions(&self) -> Result<u64, Failure> {
        let slot = Slot::try_from(self.info.slot).map_err(|error| failure(&error))?;
        let info = self.module.get_token_info(slot).map_err(|error| failure(&error))?;
        let room = |limit, open: Option<u64>| match limit {
            Limit::Infinite => u64::MAX,
            Limit::Max(most) => open.map_or(0, |open| most.saturating_sub(open)),
            Limit::Unavailable => 0,
        };
        let any = room(info.max_session_count(), info.session_count());
        Ok(if self.rw_session { any.min(room(info.max_rw_session_count(), info.rw_session_count())) } else { any })
    }

    /// Over which of the texts in `over` the key of that label made the signature.
    ///
    /// For a MAC, to verify is to make it again and compare. That is done here, so that one answer of the token serves twice: the first text's
    /// signature is wanted where another one fits. The first that fits under a key is verified by the token besides, as Barbican will have it
    /// verified, and so is the first that is made anew: from then on it is known that the two are the same under this key.
    pub(super) fn fit(&mut self, label: &str, over: &[Vec<u8>], signature: &[u8]) -> Result<Fit, Failure> {
        let Some(key) = self.key(Use::Sign, label)? else {
            return Ok(Fit::KeyMissing { label: label.to_owned() });
        };
        let mut first = None;
        for (index, text) in over.iter().enumerate() {
            let own = self.sign(key, text)?;
            let fits = match &own {
                Some(own) => own.len() == signature.len() && openssl::memcmp::eq(own, signature),
                None => self.verify(key, text, signature)?,
            };
            if index == 0 {
                first = own;
            }
            if fits {
                if first.is_some() && !self.confirmed.contains(&(key, index > 0)) {
                    let made = first.as_deref().zip(over.first()).filter(|_| index > 0);
                    let also = made.map_or(Ok(true), |(made, text)| self.verify(key, text, made))?;
                    if !also || !self.verify(key, text, signature)? {
                        let why = format!("does not verify the signature that it has just made with key {label:?}");
                        return Err(Failure::Other { why });
                    }
                    self.confirmed.push((key, index > 0));
                }
                return Ok(Fit::Over { index, first: first.filter(|_| index > 0) });
            }
        }
        Ok(Fit::None)
    }

    /// `None`: the token lets this key verify, and not sign.
    fn sign(&mut self, key: ObjectHandle, data: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        if self.verifies_only.contains(&key) {
            return Ok(None);
        }
        match self.session.sign(&plain(self.hmac_mechanism.number()), key, data) {
            Ok(signature) => Ok(Some(signature)),
            Err(Error::Pkcs11(RvError::KeyFunctionNotPermitted, _)) => {
                self.verifies_only.push(key);
                Ok(None)
            }
            Err(error) => Err(failure(&error)),
        }
    }

    fn verify(&self, key: ObjectHandle, data: &[u8], signature: &[u8]) -> Result<bool, Failure> {
        match self.session.verify(&plain(self.hmac_mechanism.number()), key, data, signature) {
            Ok(()) => Ok(true),
            // The second is how a token says the same of a signature whose length alone rules it out.
            Err(Error::Pkcs11(RvError::SignatureInvalid | RvError::SignatureLenRange, _)) => Ok(false),
            Err(error) => Err(failure(&error)),
        }
    }

    pub(super) fn prove(&mut self, kek: &WrappedKek, secret: &Ciphertext) -> Result<Proof, Failure> {
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
            Some((_, handle)) => self.session.destroy_object(handle).map_err(|error| failure(&error)),
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
    let module = loaded.map_err(|error| {
        let why = if let Error::MissingSymbol(symbol) = error {
            format!("it has no {symbol}, so it is no PKCS#11 module")
        } else if let Error::LibraryLoading(error) = error {
            let why = error.to_string();
            let named = format!("{}: ", open.module.display()); // the error names it already
            why.strip_prefix(&named).unwrap_or(&why).to_owned()
        } else {
            code(&error)
        };
        Failure::NotLoaded { why }
    })?;
    let flags = if open.os_locking_ok { CInitializeFlags::OS_LOCKING_OK } else { CInitializeFlags::empty() };
    match module.initialize(CInitializeArgs::new(flags)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(module),
        Err(error) => Err(Failure::NotLoaded { why: code(&error) }),
    }
}

/// The token Barbican would take.
fn choose(module: &Pkcs11, wanted: &Selector) -> Result<TokenInfo, Failure> {
    let slots = module.get_slots_with_token().map_err(|error| failure(&error))?;
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
        let found = tokens().map_err(|error| failure(&error))?.into_iter().find(|token| token.serial == *serial);
        return found.ok_or_else(|| none(format!("serial number {serial:?}")));
    }
    if !wanted.labels.is_empty() {
        let found =
            tokens().map_err(|error| failure(&error))?.into_iter().find(|token| wanted.labels.contains(&token.label));
        return found.ok_or_else(|| none(format!("label {}", wanted.labels.join(" or "))));
    }
    let Some(id) = wanted.slot else {
        return Err(none("a serial number, label or slot, none of which is configured,".to_owned()));
    };
    let slot = Slot::try_from(id).map_err(|error| failure(&error))?;
    match token_info(module, slot) {
        Ok(token) => Ok(token),
        Err(Error::Pkcs11(RvError::SlotIdInvalid | RvError::TokenNotPresent | RvError::TokenNotRecognized, _)) => {
            Err(none(format!("slot id {id}")))
        }
        Err(error) => Err(failure(&error)),
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
    let state = session.get_session_info().map_err(|error| failure(&error))?.session_state();
    if !matches!(state, SessionState::RoPublic | SessionState::RwPublic) {
        return Ok(());
    }
    let flags = module.get_token_info(slot).map_err(|error| failure(&error))?;
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
    session.login(UserType::User, Some(&pin)).map_err(|error| {
        use RvError as R;
        let about_pin = matches!(
            error,
            Error::Pkcs11(R::PinIncorrect | R::PinInvalid | R::PinLenRange | R::PinExpired | R::PinLocked, _)
        );
        if about_pin { Failure::PinRefused { token: info.label.clone(), ckr: code(&error) } } else { failure(&error) }
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
            if refused { Ok(Err(code(&error))) } else { Err(failure(&error)) }
        }
    }
}

fn failure(error: &Error) -> Failure {
    if let Error::Pkcs11(ckr, function) = error {
        Failure::Ckr { function: format!("C_{function:?}"), ckr: ckr_name(*ckr) }
    } else {
        Failure::Other { why: error.to_string() }
    }
}

/// "C_Decrypt: CKR_ENCRYPTED_DATA_INVALID".
fn code(error: &Error) -> String {
    if let Error::Pkcs11(ckr, function) = error {
        format!("C_{function:?}: {}", ckr_name(*ckr))
    } else {
        error.to_string()
    }
}

/// The name in the PKCS#11 header, made from the crate's: `PinIncorrect` -> `CKR_PIN_INCORRECT`.
fn ckr_name(ckr: RvError) -> String {
    if let RvError::VendorDefined(number) | RvError::UnknownErrorCode(number) = ckr {
        return format!("CKR {number:#x}");
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
        assert_eq!(ckr_name(RvError::PinIncorrect), "CKR_PIN_INCORRECT");
        assert_eq!(ckr_name(RvError::UserNotLoggedIn), "CKR_USER_NOT_LOGGED_IN");
        assert_eq!(ckr_name(RvError::VendorDefined(0x8100_0071)), "CKR 0x81000071");
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
