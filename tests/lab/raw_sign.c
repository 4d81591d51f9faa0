/* How fast a token makes HMACs when nothing else is done: for the bench.
 *
 *   raw_sign MODULE TOKEN PIN COUNT [KEYHEX]
 *
 * Signs 64 bytes COUNT times with the key labelled "bench_hmac", by the calls that the product makes for a signature (C_SignInit, C_Sign for the
 * length, C_Sign), and prints the seconds. With KEYHEX that key is made first. */
#include <dlfcn.h>
#include <p11-kit/pkcs11.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void check(CK_RV rv, const char *what)
{
	if (rv != CKR_OK) {
		fprintf(stderr, "raw_sign: %s: %#lx\n", what, rv);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	CK_OBJECT_CLASS secret = CKO_SECRET_KEY;
	CK_KEY_TYPE generic = CKK_GENERIC_SECRET;
	CK_BBOOL yes = CK_TRUE;
	CK_BYTE key[64], data[64] = { 0 }, out[64];
	CK_ATTRIBUTE template[] = {
		{ CKA_CLASS, &secret, sizeof secret }, { CKA_KEY_TYPE, &generic, sizeof generic },
		{ CKA_LABEL, "bench_hmac", 10 },       { CKA_TOKEN, &yes, sizeof yes },
		{ CKA_PRIVATE, &yes, sizeof yes },     { CKA_SIGN, &yes, sizeof yes },
		{ CKA_VERIFY, &yes, sizeof yes },      { CKA_VALUE, key, 0 },
	};
	CK_MECHANISM mechanism = { CKM_SHA256_HMAC, NULL, 0 };
	CK_C_GetFunctionList get = NULL;
	CK_FUNCTION_LIST *p;
	CK_SLOT_ID slots[16];
	CK_TOKEN_INFO info;
	CK_SESSION_HANDLE session;
	CK_OBJECT_HANDLE object;
	CK_ULONG count = 16, found = 0, i;
	struct timespec begin, end;
	void *module = argc >= 5 ? dlopen(argv[1], RTLD_NOW) : NULL;

	if (module)
		*(void **)&get = dlsym(module, "C_GetFunctionList");
	if (!get) {
		fprintf(stderr, "raw_sign: no module\n");
		return 1;
	}
	check(get(&p), "C_GetFunctionList");
	check(p->C_Initialize(NULL), "C_Initialize");
	check(p->C_GetSlotList(CK_TRUE, slots, &count), "C_GetSlotList");
	for (i = 0; i < count; i++) {
		check(p->C_GetTokenInfo(slots[i], &info), "C_GetTokenInfo");
		if (strncmp((char *)info.label, argv[2], strlen(argv[2])) == 0)
			break;
	}
	check(i < count ? CKR_OK : CKR_TOKEN_NOT_PRESENT, argv[2]);
	check(p->C_OpenSession(slots[i], CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session), "C_OpenSession");
	check(p->C_Login(session, CKU_USER, (CK_BYTE *)argv[3], strlen(argv[3])), "C_Login");
	if (argc > 5) {
		for (i = 0; i < sizeof key && sscanf(argv[5] + 2 * i, "%2hhx", &key[i]) == 1; i++)
			;
		template[7].ulValueLen = i;
		check(p->C_CreateObject(session, template, 8, &object), "C_CreateObject");
	}
	check(p->C_FindObjectsInit(session, template, 3), "C_FindObjectsInit");
	check(p->C_FindObjects(session, &object, 1, &found), "C_FindObjects");
	check(p->C_FindObjectsFinal(session), "C_FindObjectsFinal");
	check(found == 1 ? CKR_OK : CKR_KEY_HANDLE_INVALID, "bench_hmac");
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (long n = atol(argv[4]); n > 0; n--) {
		CK_ULONG length = 0;

		data[0] = (CK_BYTE)n;
		check(p->C_SignInit(session, &mechanism, object), "C_SignInit");
		check(p->C_Sign(session, data, sizeof data, NULL, &length), "C_Sign");
		check(p->C_Sign(session, data, sizeof data, out, &length), "C_Sign");
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%.6f\n", (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9);
	return p->C_Finalize(NULL) == CKR_OK ? 0 : 1;
}
