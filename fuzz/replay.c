/* Runs a fuzz target on the files that are named, and names each before; each in memory of exactly its size. */
#include "fuzz.h"

int main(int count, char **names) {
    for (int at = 1; at < count; at++) {
        FILE *file = fopen(names[at], "rb");
        if (file == NULL || fseek(file, 0, SEEK_END)) {
            perror(names[at]);
            return 1;
        }
        long size = ftell(file);
        uint8_t *bytes = malloc(size > 0 ? (size_t)size : 1);
        rewind(file);
        if (bytes == NULL || fread(bytes, 1, (size_t)size, file) != (size_t)size) {
            perror(names[at]);
            return 1;
        }
        fclose(file);
        fprintf(stderr, "%s\n", names[at]);
        LLVMFuzzerTestOneInput(bytes, (size_t)size);
        free(bytes);
    }
    return 0;
}
