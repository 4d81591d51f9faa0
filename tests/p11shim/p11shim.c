/* A PKCS#11 module for tests: it forwards to SoftHSM2 and makes it behave like the HSMs Barbican
 * is used with, or like broken ones. Not part of the product.
 *
 * Always:
 *   C_WrapKey and C_UnwrapKey understand CKM_AES_CBC_PAD, which SoftHSM 2.6.1 refuses.
 *
 * By environment variables:
 *   P11SHIM_MODULE    the module behind; SoftHSM2 in its usual places otherwise
 *   P11SHIM_LIBERTY=1 a token as Liberty expects it: SafeNet's GCM number means CKM_AES_GCM, keys
 *                     are found whatever CKA_KEY_TYPE is asked for (Liberty looks for a CKK_AES
 *                     HMAC key; SoftHSM makes HMACs with generic secrets only), a second login
 *                     succeeds, and one session stays open, so that key handles stay valid
 *   P11SHIM_LOG       a file that gets one line "C_Function 0xCKR" per call
 *   P11SHIM_DELAY_US  microseconds each cryptographic call takes longer: an HSM in the network
 *   P11SHIM_CHATTER   a text printed to stdout and stderr by every call
 *   P11SHIM_FAULT     FUNCTION:N:FAULT[,...]: the Nth and every later call of FUNCTION fails;
 *                     FAULT is crash, abort, exit, hang, or a CKR in hexadecimal (0x30: device
 *                     error, 0xb1: session count)
 *
 * Barbican looks up the C_ functions themselves, others ask C_GetFunctionList: both work.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <p11-kit/pkcs11.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 16
#define SAFENET_GCM 0x8000011cUL
#define MAX_KEY 64      /* bytes of a wrapped AES key, padding included, with room */
#define MAX_TEMPLATE 32 /* attributes */
#define EXPORT __attribute__((visibility("default")))

static CK_FUNCTION_LIST *behind;

static const char *setting(const char *name)
{
	const char *value = getenv(name);
	return value && *value ? value : NULL;
}

static int liberty(void)
{
	const char *value = setting("P11SHIM_LIBERTY");
	return value && strcmp(value, "1") == 0;
}

/* Loads the module behind, once. Tests have one thread per process that uses this. */
static void load(void)
{
	static const char *const usual[] = {
		"/usr/lib/softhsm/libsofthsm2.so",
		"/usr/lib64/softhsm/libsofthsm2.so",
		"/usr/lib64/pkcs11/libsofthsm2.so",
		"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
		"/usr/local/lib/softhsm/libsofthsm2.so",
	};
	const char *given = setting("P11SHIM_MODULE");
	void *module = given ? dlopen(given, RTLD_NOW | RTLD_LOCAL) : NULL;
	CK_C_GetFunctionList get = NULL;

	for (size_t i = 0; !given && !module && i < sizeof usual / sizeof *usual; i++)
		module = dlopen(usual[i], RTLD_NOW | RTLD_LOCAL);
	if (module)
		*(void **)&get = dlsym(module, "C_GetFunctionList");
	if (!get || get(&behind) != CKR_OK) {
		fprintf(stderr, "p11shim: no module behind: %s\n", dlerror());
		abort();
	}
}

/* The fault that is due at this call of the function; its CKR, or CKR_OK. */
static CK_RV fault(const char *function)
{
	static struct { char name[32]; unsigned long calls; } counts[64];
	const char *plan = setting("P11SHIM_FAULT");
	unsigned long calls = 0;

	if (!plan)
		return CKR_OK;
	for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
		if (!*counts[i].name)
			snprintf(counts[i].name, sizeof counts[i].name, "%s", function);
		if (strcmp(counts[i].name, function) == 0) {
			calls = ++counts[i].calls;
			break;
		}
	}
	while (*plan) {
		char name[32], kind[16];
		unsigned long first;
		int length = 0;

		if (sscanf(plan, "%31[^:]:%lu:%15[^,]%n", name, &first, kind, &length) != 3) {
			fprintf(stderr, "p11shim: P11SHIM_FAULT cannot be read at: %s\n", plan);
			abort();
		}
		plan += length;
		plan += *plan == ',';
		if (strcmp(name, function) != 0 || calls < first)
			continue;
		if (strcmp(kind, "crash") == 0)
			*(volatile char *)NULL = 0; /* a raised SIGSEGV would be ignored by Rust's handler */
		else if (strcmp(kind, "abort") == 0)
			abort();
		else if (strcmp(kind, "exit") == 0)
			exit(3);
		else if (strcmp(kind, "hang") == 0)
			for (;;)
				pause();
		else
			return strtoul(kind, NULL, 16);
	}
	return CKR_OK;
}

/* Runs before every call; a CKR other than CKR_OK is the call's result. */
static CK_RV enter(const char *function)
{
	const char *chatter = setting("P11SHIM_CHATTER");

	if (!behind)
		load();
	if (chatter) {
		printf("{\"chatter\":\"%s in %s\"}\n", chatter, function);
		fflush(stdout);
		fprintf(stderr, "%s in %s\n", chatter, function);
	}
	return fault(function);
}

/* Runs after every call. */
static CK_RV leave(const char *function, CK_RV rv)
{
	const char *path = setting("P11SHIM_LOG");
	FILE *log = path ? fopen(path, "a") : NULL;

	if (log) {
		fprintf(log, "%s %#lx\n", function, rv);
		fclose(log);
	}
	return rv;
}

static void delay(void)
{
	const char *microseconds = setting("P11SHIM_DELAY_US");

	if (microseconds)
		usleep((useconds_t)strtoul(microseconds, NULL, 10));
}

/* An exported function: PRE runs before, CALL gives the result. */
#define FUNCTION(name, parameters, pre, call)      \
	EXPORT CK_RV name parameters               \
	{                                          \
		CK_RV rv = enter(#name);           \
		if (rv == CKR_OK) {                \
			pre;                       \
			rv = call;                 \
		}                                  \
		return leave(#name, rv);           \
	}
#define FORWARD(name, parameters, arguments) FUNCTION(name, parameters, (void)0, behind->name arguments)
#define FORWARD_SLOWLY(name, parameters, arguments) FUNCTION(name, parameters, delay(), behind->name arguments)

/* ---- what is changed ---- */

/* AES-CBC with PKCS#7 padding, made of AES-CBC: SoftHSM wraps a key that fills whole blocks by
 * CKM_AES_CBC; what is missing is one more block of padding, chained to the last. */
static CK_RV wrap_cbc_pad(CK_SESSION_HANDLE session, CK_MECHANISM *pad, CK_OBJECT_HANDLE wrapper,
			  CK_OBJECT_HANDLE key, CK_BYTE *out, CK_ULONG *out_len)
{
	CK_MECHANISM cbc = { CKM_AES_CBC, pad->pParameter, pad->ulParameterLen };
	CK_BYTE wrapped[MAX_KEY], iv[BLOCK], padding[BLOCK];
	CK_MECHANISM chained = { CKM_AES_CBC, iv, sizeof iv };
	CK_ULONG len = sizeof wrapped - BLOCK, last = BLOCK;
	CK_RV rv = behind->C_WrapKey(session, &cbc, wrapper, key, wrapped, &len);

	if (rv != CKR_OK)
		return rv;
	if (len < BLOCK || len % BLOCK)
		return CKR_KEY_SIZE_RANGE;
	if (!out) {
		*out_len = len + BLOCK;
		return CKR_OK;
	}
	if (*out_len < len + BLOCK) {
		*out_len = len + BLOCK;
		return CKR_BUFFER_TOO_SMALL;
	}
	memcpy(iv, wrapped + len - BLOCK, BLOCK);
	memset(padding, BLOCK, BLOCK);
	if ((rv = behind->C_EncryptInit(session, &chained, wrapper)) != CKR_OK ||
	    (rv = behind->C_Encrypt(session, padding, BLOCK, wrapped + len, &last)) != CKR_OK)
		return rv;
	*out_len = len + BLOCK;
	memcpy(out, wrapped, *out_len);
	return CKR_OK;
}

/* Decrypts, checks the padding, and makes a key object of what is left. */
static CK_RV unwrap_cbc_pad(CK_SESSION_HANDLE session, CK_MECHANISM *pad, CK_OBJECT_HANDLE wrapper,
			    CK_BYTE *in, CK_ULONG in_len, CK_ATTRIBUTE *template, CK_ULONG count,
			    CK_OBJECT_HANDLE *key)
{
	CK_MECHANISM cbc = { CKM_AES_CBC, pad->pParameter, pad->ulParameterLen };
	CK_ATTRIBUTE with_value[MAX_TEMPLATE + 1];
	CK_BYTE plain[MAX_KEY];
	CK_ULONG len = sizeof plain, used = 0, padding, wrong = 0;
	CK_RV rv;

	if (!pad->pParameter || pad->ulParameterLen != BLOCK)
		return CKR_MECHANISM_PARAM_INVALID;
	if (in_len < 2 * BLOCK || in_len > sizeof plain || in_len % BLOCK)
		return CKR_WRAPPED_KEY_LEN_RANGE;
	if (count > MAX_TEMPLATE)
		return CKR_TEMPLATE_INCONSISTENT;
	if ((rv = behind->C_DecryptInit(session, &cbc, wrapper)) != CKR_OK ||
	    (rv = behind->C_Decrypt(session, in, in_len, plain, &len)) != CKR_OK)
		return rv;
	padding = plain[len - 1];
	if (padding < 1 || padding > BLOCK)
		wrong = 1;
	for (CK_ULONG i = 1; !wrong && i <= padding; i++)
		wrong = plain[len - i] != padding;
	if (wrong) {
		explicit_bzero(plain, sizeof plain);
		return CKR_WRAPPED_KEY_INVALID;
	}
	for (CK_ULONG i = 0; i < count; i++)
		if (template[i].type != CKA_VALUE_LEN)
			with_value[used++] = template[i];
	with_value[used++] = (CK_ATTRIBUTE){ CKA_VALUE, plain, len - padding };
	rv = behind->C_CreateObject(session, with_value, used, key);
	explicit_bzero(plain, sizeof plain);
	return rv == CKR_ATTRIBUTE_VALUE_INVALID ? CKR_WRAPPED_KEY_INVALID : rv;
}

static CK_RV find(CK_SESSION_HANDLE session, CK_ATTRIBUTE *template, CK_ULONG count)
{
	CK_ATTRIBUTE others[MAX_TEMPLATE];
	CK_ULONG used = 0;

	if (!liberty())
		return behind->C_FindObjectsInit(session, template, count);
	for (CK_ULONG i = 0; i < count && used < MAX_TEMPLATE; i++)
		if (template[i].type != CKA_KEY_TYPE)
			others[used++] = template[i];
	return behind->C_FindObjectsInit(session, others, used);
}

static CK_RV log_in(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_BYTE *pin, CK_ULONG len)
{
	static CK_SESSION_HANDLE kept;
	CK_SESSION_INFO info;
	CK_RV rv = behind->C_Login(session, user, pin, len);

	if (!liberty())
		return rv;
	if (rv == CKR_OK && !kept && behind->C_GetSessionInfo(session, &info) == CKR_OK)
		behind->C_OpenSession(info.slotID, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &kept);
	return rv == CKR_USER_ALREADY_LOGGED_IN ? CKR_OK : rv;
}

/* The mechanism as SoftHSM knows it. */
static CK_MECHANISM translated(const CK_MECHANISM *mechanism)
{
	CK_MECHANISM known = *mechanism;

	if (liberty() && known.mechanism == SAFENET_GCM)
		known.mechanism = CKM_AES_GCM;
	return known;
}

FUNCTION(C_WrapKey,
	 (CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE w, CK_OBJECT_HANDLE k, CK_BYTE *o, CK_ULONG *l),
	 delay(),
	 m->mechanism == CKM_AES_CBC_PAD ? wrap_cbc_pad(s, m, w, k, o, l) : behind->C_WrapKey(s, m, w, k, o, l))
FUNCTION(C_UnwrapKey,
	 (CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE w, CK_BYTE *i, CK_ULONG l, CK_ATTRIBUTE *t,
	  CK_ULONG n, CK_OBJECT_HANDLE *k),
	 delay(),
	 m->mechanism == CKM_AES_CBC_PAD ? unwrap_cbc_pad(s, m, w, i, l, t, n, k)
					 : behind->C_UnwrapKey(s, m, w, i, l, t, n, k))
FUNCTION(C_FindObjectsInit, (CK_SESSION_HANDLE s, CK_ATTRIBUTE *t, CK_ULONG n), (void)0, find(s, t, n))
FUNCTION(C_Login, (CK_SESSION_HANDLE s, CK_USER_TYPE u, CK_BYTE *p, CK_ULONG l), (void)0, log_in(s, u, p, l))
FUNCTION(C_EncryptInit, (CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE k),
	 CK_MECHANISM known = translated(m); delay(), behind->C_EncryptInit(s, &known, k))
FUNCTION(C_DecryptInit, (CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE k),
	 CK_MECHANISM known = translated(m); delay(), behind->C_DecryptInit(s, &known, k))

/* ---- what is only passed on ---- */

FORWARD(C_Initialize, (void *a), (a))
FORWARD(C_Finalize, (void *a), (a))
FORWARD(C_GetInfo, (CK_INFO *i), (i))
FORWARD(C_GetSlotList, (CK_BBOOL p, CK_SLOT_ID *l, CK_ULONG *n), (p, l, n))
FORWARD(C_GetSlotInfo, (CK_SLOT_ID s, CK_SLOT_INFO *i), (s, i))
FORWARD(C_GetTokenInfo, (CK_SLOT_ID s, CK_TOKEN_INFO *i), (s, i))
FORWARD(C_OpenSession, (CK_SLOT_ID s, CK_FLAGS f, void *a, CK_NOTIFY n, CK_SESSION_HANDLE *o), (s, f, a, n, o))
FORWARD(C_CloseSession, (CK_SESSION_HANDLE s), (s))
FORWARD(C_GetSessionInfo, (CK_SESSION_HANDLE s, CK_SESSION_INFO *i), (s, i))
FORWARD(C_Logout, (CK_SESSION_HANDLE s), (s))
FORWARD(C_CreateObject, (CK_SESSION_HANDLE s, CK_ATTRIBUTE *t, CK_ULONG n, CK_OBJECT_HANDLE *o), (s, t, n, o))
FORWARD(C_DestroyObject, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o), (s, o))
FORWARD(C_GetAttributeValue, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *t, CK_ULONG n), (s, o, t, n))
FORWARD(C_SetAttributeValue, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *t, CK_ULONG n), (s, o, t, n))
FORWARD(C_FindObjects, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE *o, CK_ULONG m, CK_ULONG *n), (s, o, m, n))
FORWARD(C_FindObjectsFinal, (CK_SESSION_HANDLE s), (s))
FORWARD(C_GenerateKey, (CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_ATTRIBUTE *t, CK_ULONG n, CK_OBJECT_HANDLE *k),
	(s, m, t, n, k))
FORWARD_SLOWLY(C_Encrypt, (CK_SESSION_HANDLE s, CK_BYTE *i, CK_ULONG n, CK_BYTE *o, CK_ULONG *l), (s, i, n, o, l))
FORWARD_SLOWLY(C_Decrypt, (CK_SESSION_HANDLE s, CK_BYTE *i, CK_ULONG n, CK_BYTE *o, CK_ULONG *l), (s, i, n, o, l))
FORWARD_SLOWLY(C_SignInit, (CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE k), (s, m, k))
FORWARD_SLOWLY(C_Sign, (CK_SESSION_HANDLE s, CK_BYTE *i, CK_ULONG n, CK_BYTE *o, CK_ULONG *l), (s, i, n, o, l))
FORWARD_SLOWLY(C_VerifyInit, (CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE k), (s, m, k))
FORWARD_SLOWLY(C_Verify, (CK_SESSION_HANDLE s, CK_BYTE *i, CK_ULONG n, CK_BYTE *g, CK_ULONG l), (s, i, n, g, l))
FORWARD(C_SeedRandom, (CK_SESSION_HANDLE s, CK_BYTE *b, CK_ULONG n), (s, b, n))
FORWARD(C_GenerateRandom, (CK_SESSION_HANDLE s, CK_BYTE *b, CK_ULONG n), (s, b, n))

/* Ours where we have one, else the module's own. */
EXPORT CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list)
{
	static CK_FUNCTION_LIST ours;
	CK_RV rv = enter("C_GetFunctionList");

	if (rv != CKR_OK)
		return rv;
	ours = *behind;
#define OURS(name) ours.name = name
	OURS(C_GetFunctionList); OURS(C_Initialize); OURS(C_Finalize); OURS(C_GetInfo); OURS(C_GetSlotList);
	OURS(C_GetSlotInfo); OURS(C_GetTokenInfo); OURS(C_OpenSession); OURS(C_CloseSession);
	OURS(C_GetSessionInfo); OURS(C_Login); OURS(C_Logout); OURS(C_CreateObject); OURS(C_DestroyObject);
	OURS(C_GetAttributeValue); OURS(C_SetAttributeValue); OURS(C_FindObjectsInit); OURS(C_FindObjects);
	OURS(C_FindObjectsFinal); OURS(C_GenerateKey); OURS(C_WrapKey); OURS(C_UnwrapKey);
	OURS(C_EncryptInit); OURS(C_Encrypt); OURS(C_DecryptInit); OURS(C_Decrypt); OURS(C_SignInit);
	OURS(C_Sign); OURS(C_VerifyInit); OURS(C_Verify); OURS(C_SeedRandom); OURS(C_GenerateRandom);
	*list = &ours;
	return leave("C_GetFunctionList", CKR_OK);
}
