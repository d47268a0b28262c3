// Which devices there are, and which of them CUDA_VISIBLE_DEVICES leaves visible.
//
// FAKE_CUDA_CARDS is how many cards there are (1). The one of number FAKE_CUDA_MIG_CARD is cut into two slices.
#pragma once
#include <cuda.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

constexpr size_t MEMORY_BYTES = size_t{1} << 30;
constexpr int MULTIPROCESSORS = 2, SLICES = 2;
constexpr int WHOLE = 0;

// Its PCI bus is its number; a slice counts from 1.
struct Card {
  int number, slice, multiprocessors;
  size_t memory_bytes;
  std::string name;
};

inline long number_of(const char* variable, long otherwise) {
  const char* text = std::getenv(variable);
  return text ? std::strtol(text, nullptr, 10) : otherwise;
}

inline void write_uuid(CUuuid* uuid, int number, int slice) {
  std::memset(uuid->bytes, 0xFA, sizeof uuid->bytes);
  uuid->bytes[0] = static_cast<char>(number);
  uuid->bytes[15] = static_cast<char>(slice);
}

inline std::string text_of_uuid(const Card& card) {
  CUuuid uuid;
  write_uuid(&uuid, card.number, card.slice);
  std::string text = card.slice ? "MIG-" : "GPU-";
  for (int place = 0; place < 16; ++place) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", static_cast<unsigned char>(uuid.bytes[place]));
    if (place == 4 || place == 6 || place == 8 || place == 10) text += '-';
    text += digits;
  }
  return text;
}

// In the driver's order: cards, and in the place of one that is cut, its slices. Their names are those of the card, as
// old drivers have it.
inline std::vector<Card> all_cards() {
  std::vector<Card> cards;
  const std::string name = "Fake CUDA device (host memory)";
  for (int number = 0; number < number_of("FAKE_CUDA_CARDS", 1); ++number) {
    if (number != number_of("FAKE_CUDA_MIG_CARD", -1)) {
      cards.push_back({number, WHOLE, MULTIPROCESSORS, MEMORY_BYTES, name});
      continue;
    }
    for (int slice = 1; slice <= SLICES; ++slice)
      cards.push_back({number, slice, MULTIPROCESSORS / SLICES, MEMORY_BYTES / SLICES, name});
  }
  return cards;
}

// Whether an entry of the list means a card: by index, or by the beginning of its UUID.
inline bool means(const std::string& entry, const Card& card, size_t index) {
  char* end = nullptr;
  const long number = std::strtol(entry.c_str(), &end, 10);
  if (!entry.empty() && *end == '\0') return number == static_cast<long>(index);
  return entry.size() > std::strlen("GPU-") && text_of_uuid(card).rfind(entry, 0) == 0;
}

// "CUDA Programming Guide", environment variables: those that are listed, in that order, up to the first entry that is
// invalid; an empty list hides all. Of slices a process sees one, and then nothing else; none by index.
inline const std::vector<Card>& visible_cards() {
  static const std::vector<Card>* const only = [] {
    auto* found = new std::vector<Card>;
    const char* list = std::getenv("CUDA_VISIBLE_DEVICES");
    std::vector<Card> whole;
    for (const Card& card : all_cards())
      if (card.slice == WHOLE) whole.push_back(card);
    if (!list) {
      *found = whole;
      return found;
    }
    std::stringstream entries(list);
    for (std::string entry; std::getline(entries, entry, ',');) {
      const Card* meant = nullptr;
      const auto cards = all_cards();
      for (const Card& card : cards)
        if (card.slice && means(entry, card, SIZE_MAX)) meant = &card;
      if (meant) {
        *found = {*meant};
        return found;
      }
      for (size_t index = 0; index < whole.size(); ++index)
        if (means(entry, whole[index], index)) meant = &whole[index];
      if (!meant) return found;
      found->push_back(*meant);
    }
    return found;
  }();
  return *only;
}

inline const Card* card_of(int ordinal) {
  const auto& cards = visible_cards();
  return ordinal >= 0 && static_cast<size_t>(ordinal) < cards.size() ? &cards[static_cast<size_t>(ordinal)] : nullptr;
}

template <class Body>
CUresult of_card(CUdevice device, Body body) {
  const Card* card = card_of(device);
  if (!card) return CUDA_ERROR_INVALID_DEVICE;
  body(*card);
  return CUDA_SUCCESS;
}
