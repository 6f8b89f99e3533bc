/* As a program: print what the CPUID instruction answers, a line for each leaf and subleaf, in hexadecimal:
 * leaf, subleaf (ffffffff: any), EAX, EBX, ECX, EDX.
 *
 * As a library, preloaded: let CPUID answer with the lines of the file that $CPUID_TABLE names. Linux makes the
 * instruction fault (arch_prctl(2), ARCH_CPUID_ENABLE), and the handler of that signal answers instead. So libraries
 * that are loaded later, as all of Python's are, choose their code for the processor of the table. XGETBV and the
 * instructions themselves stay this processor's.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define CPUID_ENABLE 0x1012 /* ARCH_SET_CPUID, which older headers lack */
#define ANY UINT32_MAX
#define MOST 512

struct answer {
    uint32_t leaf, subleaf, eax, ebx, ecx, edx;
};

static struct answer answers[MOST];
static int count;

static const struct answer *find(uint32_t leaf, uint32_t subleaf) {
    static const struct answer none;
    for (int i = 0; i < count; i++)
        if (answers[i].leaf == leaf && (answers[i].subleaf == subleaf || answers[i].subleaf == ANY))
            return &answers[i];
    return &none;
}

static void answer(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *instruction = (const uint8_t *)registers[REG_RIP];
    if (info->si_code != SI_KERNEL || instruction[0] != 0x0f || instruction[1] != 0xa2) {
        signal(number, SIG_DFL); /* an error of the program's own, which comes again */
        return;
    }
    const struct answer *found = find(registers[REG_RAX], registers[REG_RCX]);
    registers[REG_RAX] = found->eax;
    registers[REG_RBX] = found->ebx;
    registers[REG_RCX] = found->ecx;
    registers[REG_RDX] = found->edx;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CPUID_TABLE");
    if (!path)
        return;
    FILE *file = fopen(path, "r");
    struct answer *a = answers;
    while (file && count < MOST &&
           fscanf(file, "%x %x %x %x %x %x", &a->leaf, &a->subleaf, &a->eax, &a->ebx, &a->ecx, &a->edx) == 6)
        a = &answers[++count];
    if (file)
        fclose(file);
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    if (!count || sigaction(SIGSEGV, &action, NULL) || syscall(SYS_arch_prctl, CPUID_ENABLE, 0)) {
        perror("CPUID");
        _exit(1);
    }
}

static void print(uint32_t leaf, uint32_t subleaf, uint32_t written) {
    uint32_t eax, ebx, ecx, edx;
    __cpuid_count(leaf, subleaf, eax, ebx, ecx, edx);
    printf("%x %x %x %x %x %x\n", leaf, written, eax, ebx, ecx, edx);
}

int main(void) {
    static const uint32_t with_subleaves[] = {0x4, 0x7, 0xb, 0xd, 0x14, 0x1f, 0x8000001d};
    for (uint64_t first = 0; first <= 0x80000000; first += 0x80000000) {
        uint32_t last, ebx, ecx, edx;
        __cpuid(first, last, ebx, ecx, edx);
        for (uint32_t leaf = first; leaf <= last; leaf++) {
            int many = 0;
            for (unsigned i = 0; i < sizeof with_subleaves / sizeof *with_subleaves; i++)
                many |= with_subleaves[i] == leaf;
            for (uint32_t subleaf = 0; subleaf < (many ? 8 : 1); subleaf++)
                print(leaf, subleaf, many ? subleaf : ANY);
        }
    }
}
